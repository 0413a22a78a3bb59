import asyncio
import errno
import json
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.errors import WeightsError, WorkdirError
from mobilenet_jax.training.checkpoints import Checkpoints, _copy_to_host, has_checkpoints
from mobilenet_jax.training.history import NOT_EVALUATED
from mobilenet_jax.training.loop import train_and_evaluate
from mobilenet_jax.training.step import TrainState
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.orbax import find_checkpoint
from tests.helpers.runs import make_config, read_records


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Returns the workdir of an uninterrupted run of three epochs; it must not be changed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_and_evaluate(make_config(data, train__epochs=3), workdir)
    return workdir


def _truncate_arrays(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _remove_state(folder):
    shutil.rmtree(folder / "state")


def _empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _remove_history(folder):
    shutil.rmtree(folder / "history")


def _remove_checksums(folder):
    (folder / "checksums" / "metadata").unlink()


def _change_checksum(folder, prefix):
    path = folder / "checksums" / "metadata"
    checksums = json.loads(path.read_text())
    [name, *_] = [name for name in checksums if name.startswith(prefix)]
    path.write_text(json.dumps({**checksums, name: checksums[name] + 1}))


def _change_an_array(folder):
    _change_checksum(folder, "state")


def _change_the_history(folder):
    _change_checksum(folder, "history")


def _overwrite_all_files(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0garbage")


_DAMAGES = (
    _truncate_arrays, _remove_state, _empty_folder, _remove_history, _remove_checksums, _change_an_array,
    _change_the_history, _overwrite_all_files,
)  # fmt: skip


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(data, whole, tmp_path, damage, caplog, capfd):
    caplog.set_level("INFO")
    workdir = shutil.copytree(whole, tmp_path / "run")
    damage(workdir / "checkpoints" / "9")
    train_and_evaluate(make_config(data, train__epochs=3), workdir)
    records = [record for record in caplog.records if record.name.startswith("mobilenet_jax")]
    [warning] = [record.getMessage() for record in records if record.levelname == "WARNING"]
    assert warning.startswith("checkpoint 9 is damaged (")
    assert "resuming after epoch 2, step 6" in caplog.messages
    assert capfd.readouterr().err == ""
    assert read_records(workdir) == read_records(whole)
    weights, expected = (read_weights(w, checkpoint="latest").tensors for w in (workdir, whole))
    assert all(weights[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_damaged_newest_checkpoint_is_removed(data, whole, tmp_path):
    """Otherwise a run that is stopped at the same step again could not save its state."""
    workdir = shutil.copytree(whole, tmp_path / "run")
    _truncate_arrays(workdir / "checkpoints" / "9")
    train_and_evaluate(make_config(data, train__epochs=2), workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6"]


def test_a_folder_that_cannot_be_read_leaves_the_event_loops_of_the_program_alone(tmp_path):
    (tmp_path / "checkpoints").touch()
    policy = asyncio.get_event_loop_policy()
    with pytest.raises(WorkdirError, match="cannot read"), _open(tmp_path / "checkpoints"):
        pass
    assert asyncio.get_event_loop_policy() is policy


def test_without_a_readable_checkpoint_the_run_is_refused(data, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for folder in (workdir / "checkpoints").iterdir():
        _remove_state(folder)
    with pytest.raises(WorkdirError, match="no checkpoint in .* is readable: remove the folder to start over"):
        train_and_evaluate(make_config(data, train__epochs=3), workdir)


def _change_the_score(checkpoint):
    (checkpoint / "metrics" / "metrics").write_text('{"score": 0.999}')


def _truncate_the_score(checkpoint):
    (checkpoint / "metrics" / "metrics").write_text('{"sc')


def _change_the_checksum_of_the_score(checkpoint):
    _change_checksum(checkpoint, "metrics")


@pytest.mark.parametrize("damage", [_change_the_score, _truncate_the_score, _change_the_checksum_of_the_score])
def test_a_damaged_score_is_computed_again(data, whole, tmp_path, damage, caplog):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for checkpoint in (workdir / "checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(WeightsError, match="the score of"):
        read_weights(workdir)
    train_and_evaluate(make_config(data, train__epochs=3), workdir)
    steps = _list_names(workdir / "checkpoints")
    assert steps == _list_names(whole / "checkpoints")
    messages = [message for message in caplog.messages if "is computed again from its history" in message]
    assert len(messages) == len(steps)
    assert read_weights(workdir).identity == read_weights(whole).identity


def test_a_state_that_was_not_evaluated_keeps_its_score(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(_make_state(3), {"epoch": 0})
    _truncate_the_score(tmp_path / "3")
    with _open(tmp_path) as checkpoints:
        assert checkpoints.restore(_make_state(0))[1] == {"epoch": 0}
        checkpoints.save(_make_state(4), {"score": 0.1})
        checkpoints.save(_make_state(5), {"score": 0.0})
    assert find_checkpoint(tmp_path, "best") == tmp_path / "4"


def test_the_only_checkpoint_is_not_removed(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(_make_state(3), {"epoch": 0})
    _change_the_score(tmp_path / "3")
    _remove_checksums(tmp_path / "3")
    with pytest.raises(WorkdirError, match=r"^no checkpoint in .* is readable: remove the folder"), _open(tmp_path):
        pass
    assert _list_names(tmp_path) == ["3"]


def test_a_disk_that_cannot_be_read_now_does_not_remove_a_checkpoint(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run") / "checkpoints"

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mobilenet_jax.weights.orbax.check_json", fail)
    with pytest.raises(WorkdirError, match=r"cannot read a checkpoint .*Input/output error"), _open(folder):
        pass
    assert {path.name for path in folder.iterdir()} == {path.name for path in (whole / "checkpoints").iterdir()}


def test_a_disk_that_fills_up_during_a_save_is_one_error(data, whole, tmp_path, monkeypatch, caplog, capfd):
    """Limits the size of files, so that the writes of the arrays fail as on a full disk."""
    workdir, save = shutil.copytree(whole, tmp_path / "run"), Checkpoints.save
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_to_full_disk(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        save(*args)

    monkeypatch.setattr(Checkpoints, "save", save_to_full_disk)
    try:
        with pytest.raises(WorkdirError, match=r"cannot write a checkpoint in .*: fix the disk and start again"):
            train_and_evaluate(make_config(data, train__epochs=4), workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (workdir / "summary.json").exists(), "a run with a summary is finished"
    assert [record.name for record in caplog.records if record.name == "asyncio"] == []
    assert "Event loop is closed" not in capfd.readouterr().err
    monkeypatch.setattr(Checkpoints, "save", save)
    train_and_evaluate(make_config(data, train__epochs=4), workdir)
    assert [record["step"] for record in read_records(workdir)] == [3, 6, 9, 12]


def _open(folder):
    return Checkpoints(folder, lambda history: history.get("score", NOT_EVALUATED))


def _make_state(step):
    return TrainState(jnp.int32(step), {"layer": {"kernel": jnp.full(3, step, jnp.float32)}}, {}, {}, None)


def _list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_remains_until_the_evaluated_one_that_replaces_it_is_complete(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(_make_state(3), {"epoch": 0})
    (tmp_path / "3").rename(tmp_path / "3.replaced")  # as a kill during the replacement leaves it
    assert has_checkpoints(tmp_path)
    with _open(tmp_path) as checkpoints:
        assert checkpoints.restore(_make_state(0))[1] == {"epoch": 0}
        checkpoints.save(_make_state(3), {"epoch": 1, "score": 0.5})
        assert "3.replaced" in _list_names(tmp_path)
    assert _list_names(tmp_path) == ["3"]
    with _open(tmp_path) as checkpoints:
        assert checkpoints.restore(_make_state(0))[1] == {"epoch": 1, "score": 0.5}


def test_a_save_has_copies_of_its_arrays_which_the_next_step_overwrites():
    array = jnp.arange(1000.0)
    assert not np.shares_memory(_copy_to_host({"a": array})["a"], np.asarray(array))


def test_the_rest_of_a_deleted_checkpoint_does_not_remain(tmp_path):
    with _open(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(_make_state(step), {"score": 1 / step})
    shutil.rmtree(tmp_path / "1" / "metrics")  # a kill during the deletion
    with _open(tmp_path) as checkpoints:
        for step in (4, 5, 6):
            checkpoints.save(_make_state(step), {"score": 0.4 if step == 4 else 0.0})
    assert _list_names(tmp_path) == ["2", "5", "6"], "the best one, and the latest two"


def test_what_a_killed_save_left_is_removed(data, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    unfinished = workdir / "checkpoints" / "12.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / "9", unfinished)
    train_and_evaluate(make_config(data, train__epochs=4), workdir)
    assert not [path for path in (workdir / "checkpoints").iterdir() if not path.name.isdigit()]
    assert [record["step"] for record in read_records(workdir)] == [3, 6, 9, 12]
