import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from input_pipeline.sources.isic import MALIGNANT
from mobilenet_jax.cli.arguments import parse_names, parse_path
from mobilenet_jax.cli.error_boundary import run_command
from mobilenet_jax.cli.main import main
from mobilenet_jax.errors import UserError
from mobilenet_jax.evaluation.calibration import Correction
from mobilenet_jax.inference.predict_files import TableFormat
from mobilenet_jax.inference.views import count_views
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.pytorch.names import Library


def test_the_installed_command_works():
    command = Path(sys.executable).with_name("mobilenet-jax")
    if not command.exists():
        pytest.skip("the package is not installed in this environment: pip install -e .")
    assert subprocess.run([command, "summary"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(["summary"], ""), (["configs"], "1"), (["train", "--help"], "")]
)
def test_a_closed_pipe_ends_a_command_without_a_message(arguments, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    code = f"from mobilenet_jax.cli.main import main; main({arguments})"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141  # 128 + SIGPIPE


@pytest.mark.skipif(os.name == "nt", reason="uses a POSIX shell")
@pytest.mark.parametrize("command", ["summary", "configs"])
def test_a_command_succeeds_without_a_standard_output(command):
    code = f"from mobilenet_jax.cli.main import main; main(['{command}'])"
    result = subprocess.run(["sh", "-c", '"$0" -c "$1" >&-', sys.executable, code], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_command_goes_on_when_nobody_reads_its_log():
    code = (
        "import logging, sys\n"
        "from mobilenet_jax.cli.error_boundary import end_at_closed_pipe, run_command\n"
        "from mobilenet_jax.cli.logs import configure_logging\n"
        "def train():\n"
        "    sys.stdin.read()\n"
        "    for epoch in range(3): logging.getLogger('mobilenet_jax').info('epoch')\n"
        "    sys.stderr.write('finished')\n"
        "configure_logging(logging.INFO)\n"
        "with end_at_closed_pipe(): run_command(train, debug=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b"finished"
    process.stderr.close()
    assert process.wait() == 0


def test_a_warning_is_shown_once():
    code = (
        "import logging\n"
        "from mobilenet_jax.cli.logs import configure_logging\n"
        "configure_logging(logging.INFO)\n"
        "for name in ('a', 'a', 'b'): logging.getLogger('input_pipeline').warning('identical images: %s', name)\n"
        "for _ in range(2): logging.getLogger('mobilenet_jax').info('epoch')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "warning: identical images: a\nwarning: identical images: b\n"
    assert result.stdout == "epoch\nepoch\n"


def test_warnings_of_python_are_lines_without_a_place_in_the_code():
    code = (
        "import logging, warnings\n"
        "from mobilenet_jax.cli.logs import configure_logging\n"
        "configure_logging(logging.INFO)\n"
        "warnings.warn('Glyph 29483 missing from font(s) DejaVu Sans.')\n"
        "warnings.warn('Image size (90000000 pixels) exceeds limit of 89478485 pixels')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "warning: Glyph 29483 missing from font(s) DejaVu Sans.\n"


def test_a_path_that_begins_like_the_name_of_a_user_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = ["~/x", "~nobody-of-this-name/x"]
    assert list(map(str, map(parse_path, paths))) == ["/home/me/x", "~nobody-of-this-name/x"]


def test_help_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys\n"
        "from mobilenet_jax.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'jax', 'tensorflow', 'huggingface_hub'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    for command in (
        "train",
        "configs",
        "prepare",
        "preview",
        "convert",
        "summary",
        "evaluate",
        "predict",
        "compare",
        "card",
        "push",
    ):
        assert f"\n    {command} " in result.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate", f"{{{','.join(get_args(Correction))}}}"),
        ("evaluate", f"{{{','.join(get_args(CheckpointName))}}}"),
        ("evaluate", f"default: {','.join(MALIGNANT)} if the model has them"),
        ("evaluate", f"at most {count_views((224, 224))} "),
        ("predict", f"{{{','.join(get_args(TableFormat))}}}"),
        ("convert", f"{{{','.join(get_args(Library))}}}"),
    ],
)
def test_help_names_the_choices_of_the_package(run, command, words):
    """Options do not import the package, so that help is fast."""
    status, out, _ = run(command, "--help")
    assert status == 0
    assert words in " ".join(out.split())


@pytest.mark.parametrize("arguments", [["summary", "--alhpa=1"], ["evaluate", "run", "--config.train.epochs=3"]])
def test_unknown_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert f"unrecognized arguments: {arguments[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [UserError("two\nlines"), OSError("two\nlines")])
def test_user_errors_are_one_line_and_debug_shows_the_traceback(capsys, error):
    def fail():
        raise error

    with pytest.raises(SystemExit) as end:
        run_command(fail, debug=False)
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"
    with pytest.raises(type(error), match="two"):
        run_command(fail, debug=True)


def test_many_details_are_cut(capsys):
    def fail():
        raise UserError("10000 faults, the first: a", details=["a"] * 10_000)

    with pytest.raises(SystemExit):
        run_command(fail, debug=False)
    assert capsys.readouterr().err.splitlines()[-3:] == ["a", "and 9980 more", "error: 10000 faults, the first: a"]


def test_details_are_listed_before_the_error(capsys):
    def fail():
        raise UserError("2 faults, the first: a", details=["a", "b"])

    with pytest.raises(SystemExit):
        run_command(fail, debug=False)
    assert capsys.readouterr().err == "a\nb\nerror: 2 faults, the first: a\n"


def test_bugs_show_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"):
        run_command(lambda: int("x"), debug=False)


def test_an_interrupt_that_python_ignores_is_repeated():
    """JAX has a callback at garbage collections; exceptions are ignored there, as in `__del__`."""
    code = """
import signal, time
from mobilenet_jax.cli.error_boundary import run_command

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in background jobs

class Collected:
    def __del__(self):
        raise KeyboardInterrupt

def command():
    Collected()
    for _ in range(1000):
        time.sleep(0.01)

run_command(command, debug=False)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "stopped\n")


def test_blanks_around_the_names_in_a_list_do_not_matter():
    assert parse_names("MEL, Äpfel rot ,BCC,") == ["MEL", "Äpfel rot", "BCC"]
    assert parse_names("") == []
