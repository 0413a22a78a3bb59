"""Runs training commands as processes of their own: one after another, several at once, or through another program."""

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ml_collections import ConfigDict

from input_pipeline.errors import get_first_line
from mobilenet_jax.errors import ConfigError, Interrupted, TrainingError
from mobilenet_jax.training.config import check_config, find_differences, parse_config

DEFAULT_TEMPLATE = "{command}"
_ENTRY = "from mobilenet_jax.cli.main import main; main()"
_FROM_DATA = ("model.num_classes", "train.epochs")  # keys whose 0 is replaced by a value of the data
_POLL_SECONDS = 0.2
_logger = logging.getLogger(__name__)


class TrainingRun(NamedTuple):
    """One training run of a plan.

    Attributes:
        workdir: its folder; the output of the command goes to a file next to it, `NAME.log`.
        specification: the configuration, as `--config` takes it.
        overrides: arguments of the form `--config.SECTION.KEY=VALUE`.
    """

    workdir: Path
    specification: str
    overrides: tuple[str, ...]

    @property
    def log(self) -> Path:
        """The file with the output of the command."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def command(self) -> list[str]:
        """The command that starts or continues the run."""
        arguments = ["train", f"--config={self.specification}", f"--workdir={self.workdir}", *self.overrides]
        return [sys.executable, "-c", _ENTRY, *arguments]

    def load_config(self) -> ConfigDict:
        """Returns the validated configuration.

        Raises:
            ConfigError: it is not valid.
        """
        config, _ = parse_config(self.specification, self.overrides)
        check_config(config)
        return config

    def is_finished(self) -> bool:
        """Returns whether the run has been completed with the same configuration."""
        try:
            json.loads((self.workdir / "summary.json").read_text())
            stored = json.loads((self.workdir / "config.json").read_text())
        except (OSError, ValueError):
            return False
        differences = find_differences(stored, self.load_config().to_dict())
        return all(new == 0 and key in _FROM_DATA for key, (_, new) in differences.items())


class Runner:
    """Runs commands, at most a fixed number at once."""

    def __init__(self, jobs: int = 1, template: str = DEFAULT_TEMPLATE):
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

    def format_command(self, run: TrainingRun, slot: int = 0) -> list[str]:
        """Returns the arguments that run a command in a slot."""
        arguments: list[str] = []
        for part in self._template:
            if part == "{command}":
                arguments += run.command
            else:
                text = part.replace("{slot}", str(slot))
                arguments.append(text.replace("{command}", shlex.join(run.command)))
        return arguments

    def run(self, runs: Sequence[TrainingRun]) -> None:
        """Runs all commands that are not finished. A command that fails does not stop the others.

        SIGTERM and Ctrl-C make the running commands save their state, and end.

        Raises:
            Interrupted: a signal was received.
            TrainingError: commands failed; the message has the last line of the first one's output.
        """
        waiting = [run for run in runs if not run.is_finished()]
        if done := len(runs) - len(waiting):
            _logger.info("%d of %d runs are finished", done, len(runs))
        active: dict[int, tuple[TrainingRun, subprocess.Popen[bytes]]] = {}
        failed: list[TrainingRun] = []
        with _record_signals() as received:
            try:
                while (waiting and not received) or active:
                    for slot in sorted(set(range(self._jobs)) - active.keys()) if not received else []:
                        if waiting:
                            active[slot] = (waiting[0], self._start(waiting.pop(0), slot))
                    time.sleep(_POLL_SECONDS)
                    if received:
                        _stop(process for _, process in active.values())
                    for slot, (run, process) in list(active.items()):
                        if process.poll() is None:
                            continue
                        del active[slot]
                        if process.returncode == 0:
                            done += 1
                            _logger.info("%d of %d: %s", done, len(runs), _describe_result(run))
                        elif not received:
                            failed.append(run)
                            _logger.warning("%s failed: %s", run.workdir, _read_last_line(run.log))
            finally:
                _stop(process for _, process in active.values())
        if received:
            raise Interrupted("stopped: the same command continues from here")
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(runs)} runs failed, the first with: {_read_last_line(failed[0].log)}; its "
                f"output is in {failed[0].log}"
            )

    def _start(self, run: TrainingRun, slot: int) -> subprocess.Popen[bytes]:
        run.workdir.parent.mkdir(parents=True, exist_ok=True)
        command = self.format_command(run, slot)
        with run.log.open("ab") as log:
            try:
                # In a session of its own, Ctrl-C reaches this process only, which passes it on once.
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise ConfigError(f"--command cannot be run: {command[0]}: {error.strerror}") from error


@contextlib.contextmanager
def _record_signals() -> Iterator[list[int]]:
    """Appends the numbers of received signals to a list instead of ending the process."""
    received: list[int] = []

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(processes: Iterator[subprocess.Popen[bytes]]) -> None:
    """Asks processes to save their state and to end; waits until they have."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        process.wait()


def _describe_result(run: TrainingRun) -> str:
    """Returns a line about a finished run."""
    try:
        summary = json.loads((run.workdir / "summary.json").read_text())
        accuracy, seconds = summary["last"]["val_balanced_accuracy"], summary["seconds"]
    except (OSError, ValueError, KeyError):  # the command of the template ended without the run
        return f"{run.workdir}: no summary.json"
    return f"{run.workdir}: balanced accuracy {accuracy:.4f} after {seconds:.0f} s"


def _read_last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return get_first_line(error)
    return lines[-1].removeprefix("error: ") if lines else "no output"
