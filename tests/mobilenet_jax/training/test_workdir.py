import json
import os
import subprocess
import sys
import time

import pytest

from mobilenet_jax.errors import WorkdirError
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.workdir import Workdir
from tests.helpers.runs import make_config, read_records


def test_a_second_run_in_a_workdir_is_refused(data, tmp_path):
    config, path = make_config(data), tmp_path / "run"
    with (
        Workdir(path, config.to_dict(), 0),
        pytest.raises(WorkdirError, match=f"{path} is in use by another run: wait for it, or choose another --workdir"),
    ):
        train_and_evaluate(config, path)


def test_a_lock_ends_with_its_run(tmp_path):
    path, config = tmp_path / "run", {}
    for _ in range(2):
        with Workdir(path, config, 0):
            assert (path / ".lock").exists()
    (path / ".lock").unlink()  # as in a workdir of an earlier version
    with Workdir(path, config, 0), pytest.raises(WorkdirError, match="in use by another run"):
        Workdir(path, config, 0)


def test_a_run_that_cannot_start_leaves_the_workdir_unlocked(tmp_path):
    with pytest.raises(WorkdirError, match="MB free") as error:
        Workdir(tmp_path / "run", {}, 10**18)
    with Workdir(tmp_path / "run", {}, 0):
        assert error.value.__traceback__, "the failed run is still referenced, as in a notebook"


def test_a_killed_process_releases_its_workdir_which_still_counts_as_empty(tmp_path):
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", code, tmp_path / ".lock"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(WorkdirError, match="in use by another run"):
        Workdir(tmp_path, {}, 0)
    process.kill()
    process.communicate()
    with Workdir(tmp_path, {}, 0):
        assert (tmp_path / "config.json").exists()


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path):
    """Those that may belong to a running process, or hold the only copy of a folder, are kept."""
    for name, part, age in (("a", "new", 100_000), ("b", "new", 10), ("c", "old", 100_000)):
        folder = tmp_path / f".{name}.unfinished"
        (folder / part).mkdir(parents=True)
        (folder / part / "curves.png").write_bytes(b"half")
        os.utime(folder, (time.time() - age,) * 2)
    with Workdir(tmp_path, {}, 0):
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {".lock", "config.json", ".b.unfinished", ".c.unfinished"}


def test_a_workdir_that_cannot_be_locked_is_reported(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(WorkdirError, match=r"cannot write .*/\.lock \(Is a directory\)"):
        Workdir(tmp_path, {}, 0)


def test_the_events_of_tensorboard_are_the_records(trained):
    from tensorflow.compat.v1.train import summary_iterator

    [file] = (trained / "tensorboard").iterdir()
    events = {(v.tag, e.step): v.simple_value for e in summary_iterator(str(file)) for v in e.summary.value}
    [record] = read_records(trained)
    for tag, name in (("loss/val", "val_loss"), ("accuracy/train", "train_accuracy"), ("run/step", "step")):
        assert events[tag, record["epoch"]] == pytest.approx(record[name], rel=1e-6)


def test_a_resumed_run_replaces_the_events_of_the_earlier_part(data, trained, tmp_path):
    earlier = tmp_path / "run" / "tensorboard" / "events.out.tfevents.0.earlier"
    with Workdir(tmp_path / "run", make_config(data).to_dict(), 0) as workdir:
        earlier.parent.mkdir()
        earlier.touch()
        workdir.write_metrics(read_records(trained))
    assert len(list(earlier.parent.iterdir())) == 1
    assert not earlier.exists()


def test_the_config_json_of_another_program_is_refused(data, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mobilenet_v1"}')
    with pytest.raises(WorkdirError, match="it is not the configuration of a run"):
        train_and_evaluate(make_config(data), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}


def test_a_run_without_a_checkpoint_may_change_its_configuration(data, tmp_path):
    Workdir(tmp_path / "run", make_config(data, train__batch_size=4).to_dict(), 0).__exit__(None, None, None)
    train_and_evaluate(make_config(data, train__epochs=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["batch_size"] == 8


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_a_damaged_config_json_is_refused(data, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match="config.json cannot be read"):
        train_and_evaluate(make_config(data), tmp_path)
