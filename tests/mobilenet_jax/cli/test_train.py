import functools
import os
import pty
import subprocess
import sys
import termios

import pytest

from mobilenet_jax.cli.error_boundary import run_command
from tests.helpers.runs import ROOT, make_command


@pytest.fixture
def run_train(run, monkeypatch):
    """Returns a function that runs `train` in this process, in the root of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("mobilenet_jax.cluster.connect_processes", lambda *cluster: None)  # JAX is in use already
    for name in ("GLIBC_TUNABLES", "TF_USE_LEGACY_KERAS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # the command changes neither if it is set
    return functools.partial(run, "train")


def test_an_invalid_command_of_the_script_ends_with_one_line_and_a_status():
    command = [sys.executable, "train.py", "--config=configs/mobilenet.py", "--config.train.epoch=3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("did you mean config.train.epochs?\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/mobilenet.py", "--config.train.epochs=many"],
            "config.train.epochs is 'many', but must be an integer",
        ),
        (["--config=sample", "--config.augment.vertical_flip=flase"], "vertical_flip is 'flase', but must be"),
        (["--config=sample", "--epochs=3"], "unknown option --epochs: settings have the form --config.SECTION"),
        (["--config=configs/mobilenet.py:isic2019"], "the recipes are 'sample' and 'isic2018'"),
        (["--config=sample", "--config.data.dir=x"], "config.data.source is 'sample', which has no folder"),
        (["--config=configs/xyz.py"], "no such configuration: configs/xyz.py; expected a file, or one of"),
        (["--confg=configs/mobilenet.py"], "unknown option --confg"),
        (["--config=configs/mobilenet.py", "extra"], "unexpected argument extra: settings have the form"),
        (["--config=sample", "-config.train=3"], "unknown key config.train"),
        (["--config=sample", "--config.train.epochs:3"], "settings have the form --config.SECTION.KEY=VALUE"),
        ([], "--config is missing: name a file or a shipped configuration, such as --config=sample"),
    ],
)
def test_invalid_commands_end_with_one_line_and_a_status(run_train, arguments, message):
    status, out, err = run_train(*arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("folder", [None, "mine"])
def test_programs_are_cached_however_fast_they_compile_unless_the_user_names_a_cache(
    run_train, monkeypatch, cache, folder
):
    if folder:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    else:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    settings = {}
    monkeypatch.setattr("jax.config.update", settings.__setitem__)
    run_train()
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    expected = {} if folder else dict(zip(names, (str(cache / "mobilenet-jax" / "compiled"), 0), strict=True))
    assert settings == expected


def test_importing_the_script_does_nothing():
    code = "import sys, train; sys.exit('jax' in sys.modules or 'GLIBC_TUNABLES' in __import__('os').environ)"
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0


@pytest.mark.slow
def test_a_terminal_shows_a_progress_bar(data, tmp_path):
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    changes = ("--config.train.epochs=1", "--config.data.image_size=96", "--config.train.batch_size=1")
    process = subprocess.Popen(make_command(data, tmp_path / "run", *changes), cwd=ROOT, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(parent)
    for part in (b"epoch 1/1 ", b" left, loss ", b", accuracy ", b" images/s, ", b"best: epoch 1"):
        assert part in shown


@pytest.mark.slow
def test_profile_writes_a_trace(data, tmp_path):
    changes = ("--config.train.batch_size=1", "--config.train.epochs=1")
    command = make_command(data, tmp_path / "run", "--profile", *changes)
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"trace of 10 steps in {tmp_path / 'run' / 'profile'}" in result.stdout
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_output(data, tmp_path):
    command = make_command(data, tmp_path / "run", "--config.train.epochs=2")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_lack_of_memory_is_one_line(capsys):
    def allocate():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nstack")

    with pytest.raises(SystemExit, match="1"):
        run_command(allocate, debug=False)
    assert capsys.readouterr().err == (
        "error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.): use smaller batches, smaller "
        "images or a smaller model\n"
    )
