"""Commands that SIGKILL ends at random moments: each output is whole or absent, and the same command completes it."""

import os
import re
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest

from tests.helpers.runs import ROOT, assert_equal_runs, end_run, make_command, start_run

_MAIN = "from mobilenet_jax.cli.main import main; main()"
# The page is built from short files instead of those of npm's packages.
_DEMO = (
    "from mobilenet_jax.demo import build\n"
    "build.read_package_files = lambda package, names: dict.fromkeys(names, b'content' * 10_000)\n"
)
_KILLS = 15  # of each command
_END_TIMEOUT = 360  # seconds; a process waits five minutes for one that was killed before it connected


class Case(NamedTuple):
    """A command and what it writes.

    Attributes:
        arguments: those of `mobilenet-jax`; FOLDER stands for a folder.
        out: what the command writes in the folder.
        setup: code that runs before the command.
    """

    arguments: list[object]
    out: str
    setup: str = ""

    def start(self, folder):
        arguments = [str(argument).replace("FOLDER", str(folder)) for argument in self.arguments]
        command = [sys.executable, "-c", self.setup + _MAIN, *arguments]
        env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def complete(self, folder):
        """Runs the command to its end, and returns its outputs."""
        process = self.start(folder)
        _, err = process.communicate()
        assert process.returncode == 0, err
        return _read_outputs(folder / self.out)


def _make_cases(data, trained):
    _, _, *training = make_command(data, "FOLDER/run", "--config.data.cache=disk", "--config.train.epochs=1")
    images = next(data.glob("*_Input"))
    return {
        "prepare": Case(["prepare", data, "FOLDER/folders"], "folders"),
        "train, writing a cache": Case(["train", *training], "cache/mobilenet-jax/decoded"),
        "evaluate": Case(["evaluate", trained, "--resamples=5", "--out=FOLDER/evaluation"], "evaluation"),
        "predict": Case(["predict", trained, images, "--batch-size=2", "--out=FOLDER/table.csv"], "table.csv"),
        "convert": Case(["convert", trained, "FOLDER/weights.safetensors"], "weights.safetensors"),
        "export": Case(["export", trained, "FOLDER/model.tflite"], "model.tflite"),
        "demo": Case(["demo", trained, "--out=FOLDER/site"], "site", _DEMO),
    }


def _read_outputs(out):
    """Returns the content of the files under their final names, without what differs between two complete runs."""
    files = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    temporary = re.compile(r"\.(unfinished|copying)/|\.lock$")
    kept = {path: content for path, content in files.items() if not temporary.search(str(path))}
    return {path.relative_to(out).as_posix(): _remove_times(path, content) for path, content in kept.items()}


def _remove_times(path, content):
    """Masks numbers in JSON and the version of a page: times, and the hashes that depend on them."""
    masked = path.suffix in (".json", ".html") or path.name == "service-worker.js"
    return re.sub(rb"'[0-9a-f]{12,}'|[0-9.]+", b"0", content) if masked else content


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["prepare", "train, writing a cache", "evaluate", "predict", "convert", "export", "demo"]
)
def test_outputs_are_whole_or_absent(name, data, trained, tmp_path, tally):
    if name in ("export", "demo"):
        pytest.importorskip("litert_converter", reason="needs pip install -e '.[export]'")
    case, kills, rng = _make_cases(data, trained)[name], tally(f"SIGKILL of {name}"), np.random.default_rng(0)
    expected, start = case.complete(_make_folder(tmp_path / "first")), time.monotonic()
    assert case.complete(_make_folder(tmp_path / "second")) == expected
    duration, folder = time.monotonic() - start, _make_folder(tmp_path / "killed")
    while kills.tried < _KILLS:
        process = case.start(folder)
        try:
            process.wait(rng.uniform(0, duration))
            duration *= 0.9  # this machine has become faster
        except subprocess.TimeoutExpired:
            process.kill()
            found = _read_outputs(folder / case.out)
            damaged = [file for file in found if found[file] != expected[file]]
            kills.count(f"damaged: {damaged}" if damaged else None)
        process.communicate(timeout=60)  # the processes that it started end too
        if (folder / case.out).exists():
            folder = _make_folder(tmp_path / f"killed{kills.tried}")
    assert case.complete(folder) == expected


def _make_folder(folder):
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 80), (2, 15)])
def test_training_ends_like_an_uninterrupted_run(processes, kills, data, tmp_path, tally):
    """With two processes, either is killed, and the other one ends by itself."""
    start, statuses = time.monotonic(), [0] * processes
    assert end_run(start_run(data, tmp_path / "whole", processes=processes))[0] == statuses
    duration, rng, finished = time.monotonic() - start, np.random.default_rng(0), 0
    killed = tally(f"SIGKILL of training, processes: {processes}")
    while killed.tried < kills:
        running = start_run(data, tmp_path / str(finished), processes=processes)
        time.sleep(rng.uniform(0, duration))
        victim = running[rng.integers(processes)]
        if is_running := victim.poll() is None:
            victim.kill()
        ended, _ = end_run(running, timeout=_END_TIMEOUT)
        if is_running:
            killed.count()
        finished += ended[0] == 0
    assert end_run(start_run(data, tmp_path / str(finished), processes=processes))[0] == statuses
    for run in range(finished + 1):
        assert_equal_runs(tmp_path / str(run), tmp_path / "whole")
