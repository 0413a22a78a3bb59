"""Commands in environments that lack something: they work, or end with one line."""

import os
import subprocess
import sys

import pytest

from tests.helpers.runs import OVERRIDES, ROOT, read_records

_MAIN = "from mobilenet_jax.cli.main import main; main()"
_BACKWARDS = """
import itertools, time
start, calls = time.time(), itertools.count()
time.time = lambda: start - next(calls)
"""


def _run(*arguments, prefix=(), remove=(), stdout=subprocess.PIPE, **variables):
    env = {name: value for name, value in os.environ.items() if name not in remove} | variables
    command = [*prefix, sys.executable, "-c", _MAIN, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE)


def _train(data, workdir, **options):
    overrides = [f"--config.{key}={value}" for key, value in (OVERRIDES | {"train.epochs": 1}).items()]
    data = [f"--config.data.dir={data}", "--config.init.weights="]
    return _run("train", "--config=isic2018", f"--workdir={workdir}", *overrides, *data, **options)


ENVIRONMENTS = {
    "one core": {"prefix": ["taskset", "-c", "0"]},
    "no HOME": {"remove": ["HOME", "XDG_CACHE_HOME"]},
    "HOME that cannot be written": {"remove": ["XDG_CACHE_HOME"], "HOME": "/proc"},
    "C locale": {"LC_ALL": "C"},
    "TERM=dumb": {"TERM": "dumb"},
    "NO_COLOR": {"NO_COLOR": "1"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_is_trained_evaluated_and_applied(name, data, tmp_path, tally):
    """The paths have spaces and umlauts."""
    folder = tmp_path / "Läsionen von heute"
    folder.mkdir()
    (folder / "Daten 1").symlink_to(data)
    workdir, environment = folder / "Lauf 1", ENVIRONMENTS[name]
    results = [
        _train(folder / "Daten 1", workdir, **environment),
        _run("evaluate", workdir, "--resamples=5", **environment),
        _run("predict", workdir, folder / "Daten 1" / "ISIC2018_Task3_Training_Input", **environment),
        _run("convert", workdir, folder / "Gewichte.safetensors", **environment),
        _run("convert", workdir, folder / "Für Orbax", **environment),
    ]
    environments = tally("environment")
    for result in results:
        error = result.stderr.decode(errors="replace")
        environments.count(error if result.returncode or "Traceback" in error else None)
    assert len(read_records(workdir)) == 1


@pytest.mark.slow
def test_a_clock_that_goes_backwards_does_not_matter(data, tmp_path, tally):
    (tmp_path / "sitecustomize.py").write_text(_BACKWARDS)
    result = _train(data, tmp_path / "run", PYTHONPATH=f"{tmp_path}:{ROOT}")
    tally("environment").count(result.stderr.decode() if result.returncode else None)
    again = _train(data, tmp_path / "run", PYTHONPATH=f"{tmp_path}:{ROOT}")
    tally("environment").count(again.stderr.decode() if again.returncode else None)
    assert all(record["seconds"] >= 0 for record in read_records(tmp_path / "run", timed=True))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["summary"], ["configs"], ["--help"], ["predict"]])
def test_an_output_that_is_closed_is_no_error_of_the_command(arguments, trained, data, tally):
    """`mobilenet-jax ... | head` closes the output, and `>&-` removes it; argparse prints help to stderr then."""
    if arguments == ["predict"]:
        arguments = ["predict", trained, next(data.glob("*_Input"))]
    reader, writer = os.pipe()
    os.close(reader)
    for prefix, stdout in (((), writer), (["sh", "-c", 'exec "$@" >&-', "sh"], subprocess.PIPE)):
        error = _run(*arguments, prefix=prefix, stdout=stdout).stderr.decode()
        is_short = error.count("\n") <= 1 or arguments == ["--help"]
        tally("environment").count(None if is_short and "Traceback" not in error else error)
    os.close(writer)


@pytest.mark.slow
def test_commands_on_a_trained_run_need_no_tensorflow(trained, data, tmp_path, tally):
    images = next(data.glob("*_Input"))
    block = "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None; "
    for arguments in (
        ["evaluate", trained, f"--out={tmp_path / 'evaluation'}", "--resamples=5"],
        ["predict", trained, images, f"--out={tmp_path / 'table.csv'}"],
        ["convert", trained, tmp_path / "w.safetensors"],
        ["card", trained, "--help"],
    ):
        command = [sys.executable, "-c", block + _MAIN, *map(str, arguments)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        tally("environment").count(result.stderr if result.returncode else None)
