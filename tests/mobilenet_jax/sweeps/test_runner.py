"""The processes of a plan. Commands are replaced by `tests.helpers.fake_runs`, which does not train."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from mobilenet_jax.errors import ConfigError
from mobilenet_jax.sweeps.runner import Job, Runner, describe_failures
from tests.helpers.runs import ROOT


@pytest.fixture
def make_runner(tmp_path, monkeypatch):
    """Returns a function that makes a runner of fake commands; they write to `tmp_path`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    template = f"{sys.executable} -m tests.helpers.fake_runs {tmp_path} {{slot}} {{command}}"
    return lambda jobs=1: Runner(jobs, template)


def _make_jobs(folder, count):
    return [Job(folder / f"run{i}", ("evaluate", f"run{i}")) for i in range(count)]


def _read_calls(folder):
    """Returns slot, start, end and last argument of each call."""
    lines = [line.split() for line in (folder / "calls").read_text().splitlines()]
    return [(int(slot), float(start), float(end), rest[-1]) for slot, start, end, *rest in lines]


def test_jobs_run_one_after_another_and_in_order(make_runner, tmp_path):
    make_runner().run(_make_jobs(tmp_path, 2))
    calls = _read_calls(tmp_path)
    assert [call[3] for call in calls] == ["run0", "run1"]
    assert calls[0][2] <= calls[1][1]
    assert {call[0] for call in calls} == {0}


def test_no_two_jobs_have_a_slot_at_the_same_time(make_runner, tmp_path):
    make_runner(2).run(_make_jobs(tmp_path, 4))
    calls = _read_calls(tmp_path)
    assert {call[0] for call in calls} == {0, 1}
    for slot in (0, 1):
        own = sorted(call[1:3] for call in calls if call[0] == slot)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(own))


def test_a_job_that_is_killed_is_reported_with_the_signal(tmp_path):
    job = Job(tmp_path / "run", ())
    failed = Runner(
        1, f"{sys.executable} -c 'import os; print(1, flush=True); os.kill(os.getpid(), 9)' {{command}}"
    ).run([job])
    assert f"the first with: ended by signal 9 (Killed); its output is in {job.log}" in describe_failures(failed)


def test_a_job_that_fails_does_not_stop_the_others(make_runner, tmp_path):
    (tmp_path / "fail").write_text("run0")
    jobs = _make_jobs(tmp_path, 2)
    failed = make_runner().run(jobs)
    assert failed == jobs[:1]
    assert describe_failures(failed) == (
        f"1 command failed, the first with: the loss is nan at step 3; its output is in {tmp_path / 'run0.log'}"
    )
    assert [call[3] for call in _read_calls(tmp_path)] == ["run1"]


def test_the_template_is_split_into_arguments_without_a_shell():
    job = Job(ROOT, ("evaluate", "a b; rm"))
    assert Runner(2, "env GPU={slot} {command}").format_command(job, 1)[:2] == ["env", "GPU=1"]
    assert Runner(1, "{command}").format_command(job)[-2:] == ["evaluate", "a b; rm"]
    [*_, text] = Runner(1, "sbatch --wait --wrap={command}").format_command(job)
    assert text.endswith("evaluate 'a b; rm'")  # quoted for the shell of the job


@pytest.mark.parametrize(
    ("template", "message"), [("srun", "lacks {command}"), ("srun '{command}", "cannot be split into arguments")]
)
def test_templates_that_cannot_work_are_refused(template, message):
    with pytest.raises(ConfigError, match=message):
        Runner(1, template)


def test_a_program_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--command cannot be run: no-such-program: No such file"):
        Runner(1, "no-such-program {command}").run(_make_jobs(tmp_path, 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_jobs_and_can_be_continued(tmp_path, number):
    (tmp_path / "slow").touch()
    code = (
        "import sys; from pathlib import Path; from mobilenet_jax.cli.error_boundary import run_command\n"
        "from mobilenet_jax.sweeps.runner import Job, Runner\n"
        "folder = Path(sys.argv[1])\n"
        "template = f'{sys.executable} -m tests.helpers.fake_runs {folder} {{slot}} {{command}}'\n"
        "jobs = [Job(folder / f'run{i}', ('evaluate', str(i))) for i in range(3)]\n"
        "run_command(lambda: Runner(2, template).run(jobs), debug=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not all((tmp_path / f"started{slot}").exists() for slot in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "stopped: the same command continues from here\n"
    assert process.returncode == 75
    assert not (tmp_path / "calls").exists()
    assert not (tmp_path / "run2.log").exists()


def test_a_second_signal_kills_jobs_that_ignore_the_first(tmp_path):
    run = tmp_path / "run.py"
    run.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1], 'ignored').touch())\n"
        "pathlib.Path(sys.argv[1], 'started').touch()\n"
        "while True: time.sleep(60)"
    )
    code = (
        "import sys; from pathlib import Path; from mobilenet_jax.cli.error_boundary import run_command\n"
        "from mobilenet_jax.sweeps.runner import Job, Runner\n"
        "runner = Runner(1, f'{sys.executable} {sys.argv[1]}/run.py {sys.argv[1]} {{command}}')\n"
        "run_command(lambda: runner.run([Job(Path(sys.argv[1], 'run'), ('evaluate',))]), debug=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for file in ("started", "ignored"):
        deadline = time.monotonic() + 120
        while not (tmp_path / file).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "stopped: the same command continues from here\n"
    assert process.returncode == 75


def test_runs_below_a_shell_are_waited_for_after_a_signal(tmp_path):
    """SIGTERM ends the shell at once, while the run below it saves its state."""
    run = tmp_path / "run.py"
    run.write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n    time.sleep(1)\n    pathlib.Path(sys.argv[1], 'saved').touch()\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1], 'started').touch()\n"
        "time.sleep(60)"
    )
    code = (
        "import sys; from pathlib import Path; from mobilenet_jax.sweeps.runner import Job, Runner\n"
        "command = f'{sys.executable} {sys.argv[1]}/run.py {sys.argv[1]} {{command}} && true'\n"
        "Runner(1, f'sh -c {command!r}').run([Job(Path(sys.argv[1], 'run'), ('evaluate',))])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert (tmp_path / "saved").exists()


def test_signal_handlers_are_restored(make_runner, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    make_runner().run(_make_jobs(tmp_path, 1))
    assert signal.getsignal(signal.SIGTERM) is before
    assert os.path.exists(tmp_path / "run0.log")
