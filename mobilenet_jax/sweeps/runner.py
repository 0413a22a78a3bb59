"""Runs commands as processes of their own: one after another, several at once, or through another program."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import ConfigError, Interrupted

_ENTRY = "from mobilenet_jax.cli.main import main; main()"
_POLL_SECONDS = 0.2
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL
_logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A command of `mobilenet-jax` that writes a folder.

    Attributes:
        folder: the destination; the output of the command goes to a file next to it, `NAME.log`.
        arguments: those of `mobilenet-jax`.
    """

    folder: Path
    arguments: tuple[str, ...]

    @property
    def log(self) -> Path:
        """The file with the output."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> list[str]:
        """The arguments of the process."""
        return [sys.executable, "-P", "-c", _ENTRY, *self.arguments]


class Runner:
    """Runs commands, at most a fixed number at once."""

    def __init__(self, jobs: int, template: str):
        """Initializes the runner.

        Args:
            jobs: the number of commands that run at once.
            template: the command line that runs one of them. `{command}` stands for the command, as separate arguments
                or, within a longer argument, as one text; `{slot}` for a number from 0 to `jobs - 1` that no other
                running command has. No shell interprets the line.

        Raises:
            ConfigError: the template lacks `{command}`, or its quotes are not closed.
        """
        try:
            self._template = shlex.split(template)
        except ValueError as error:
            raise ConfigError(f"--command={template} cannot be split into arguments: {error}") from error
        if not any("{command}" in part for part in self._template):
            raise ConfigError(f"--command={template} lacks {{command}}, which stands for the command of a run")
        self._jobs = jobs

    @property
    def uses_slots(self) -> bool:
        """True if the template contains `{slot}`."""
        return any("{slot}" in part for part in self._template)

    def format_command(self, job: Job, slot: int = 0) -> list[str]:
        """Returns the arguments that run a job in a slot."""
        arguments: list[str] = []
        for part in self._template:
            if part == "{command}":
                arguments += job.command
            else:
                text = part.replace("{slot}", str(slot))
                arguments.append(text.replace("{command}", shlex.join(job.command)))
        return arguments

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Runs all jobs, and returns those that failed. One that fails does not stop the others.

        SIGTERM, SIGHUP and Ctrl-C make the running commands save their state, and end; a second signal kills them.
        On Windows, the first one kills them.

        Raises:
            ConfigError: the program of the template cannot be run.
            Interrupted: a signal was received.
        """
        waiting, ended = list(jobs), 0
        failed: list[Job] = []
        active: dict[int, _Process] = {}
        with _record_signals() as received:
            try:
                while active or (waiting and not received):
                    for slot in sorted(set(range(self._jobs)) - active.keys()):
                        if waiting and not received:
                            active[slot] = self._start(waiting.pop(0), slot)
                    time.sleep(_POLL_SECONDS)
                    if received:
                        _stop(active.values(), received)
                    for slot in [slot for slot, process in active.items() if process.popen.poll() is not None]:
                        job, popen, start = active.pop(slot)
                        ended += 1
                        if popen.returncode == 0:
                            _logger.info("%d of %d: %s, %.0f s", ended, len(jobs), job.folder, time.time() - start)
                        elif not received:
                            _log_signal(job, popen.returncode)
                            failed.append(job)
                            _logger.warning("%s failed: %s", job.folder, _read_last_line(job.log))
            finally:
                _stop(active.values(), received)
        if received:
            raise Interrupted("stopped: the same command continues from here")
        return failed

    def _start(self, job: Job, slot: int) -> "_Process":
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        command = self.format_command(job, slot)
        with job.log.open("ab") as log:
            try:
                # In a session of its own, Ctrl-C reaches this process only, which passes it on once.
                popen = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise ConfigError(f"--command cannot be run: {command[0]}: {error.strerror}") from error
        return _Process(job, popen, time.time())


class _Process(NamedTuple):
    job: Job
    popen: subprocess.Popen[bytes]
    start: float


@contextlib.contextmanager
def _record_signals() -> Iterator[list[int]]:
    """Appends the numbers of received signals to a list instead of ending the process."""
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if (
        hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    ):  # not on Windows; not with nohup
        numbers.append(signal.SIGHUP)  # sent when a terminal is closed
    previous = {number: signal.signal(number, record) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _log_signal(job: Job, status: int) -> None:
    """Adds a last line to a job's log if a signal, such as that of a lack of memory, has ended its process."""
    if status < 0:
        with contextlib.suppress(OSError), job.log.open("a") as log:  # the disk may be full
            log.write(f"\nended by signal {-status} ({signal.strsignal(-status)})\n")


def _stop(processes: Iterable[_Process], received: Sequence[int]) -> None:
    """Sends SIGTERM to processes, and waits until they have ended; kills them at the second signal.

    A shell in between ends first, so all processes of its group count.
    """
    groups = [process.popen for process in processes]
    _signal_groups(groups, signal.SIGTERM)
    while any(map(_is_running, groups)):
        if len(received) > 1:
            _signal_groups(groups, _KILL)
            break
        time.sleep(_POLL_SECONDS)
    for popen in groups:
        popen.wait()


def _is_running(popen: subprocess.Popen[bytes]) -> bool:
    """Returns whether a process, or one that it has started in its group, is running."""
    if popen.poll() is None:
        return True
    try:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ChildProcessError):  # this process has none in the group, unless it is the first
                while os.waitpid(-popen.pid, os.WNOHANG)[0]:  # a container inherits them
                    pass
            os.killpg(popen.pid, 0)
            return True
    except (ProcessLookupError, PermissionError):  # the latter on macOS, for a group of ended processes
        pass
    return False


def _signal_groups(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for popen in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # as in `_is_running`
            if hasattr(os, "killpg"):
                os.killpg(popen.pid, number)
            else:  # Windows has no groups of processes, and no signals: both end the process at once
                popen.kill()


def describe_failures(failed: Sequence[Job]) -> str:
    """Returns one line about jobs that failed, with the last line of the first one's output."""
    first, noun = failed[0], "command" if len(failed) == 1 else "commands"
    return f"{len(failed)} {noun} failed, the first with: {_read_last_line(first.log)}; its output is in {first.log}"


def _read_last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return get_first_line(error)
    return lines[-1].removeprefix("error: ") if lines else "no output"
