"""Checkpoints in a folder: finding one, and finding damage before Orbax restores it."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.evaluation.trained_run import read_trained_run
from mobilenet_jax.weights import orbax
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.orbax import _check_files, check_arrays, find_checkpoint, get_score


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of 40 arrays, as Orbax writes it."""
    values = {f"a{i}": np.random.default_rng(i).normal(size=500).astype(np.float32) for i in range(40)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", values)
    return tmp_path / "state"


def _list_data_files(folder):
    files = [path for path in folder.rglob("d/*") if path.stat().st_size > 1000]
    assert files
    return files


def test_intact_arrays_pass(folder):
    check_arrays(folder)


@pytest.mark.parametrize("kept", [0, 0.5, 0.9])
def test_truncated_files_are_refused_in_one_line(folder, kept, capfd):
    for file in _list_data_files(folder):
        os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(WeightsError, match=f"{re.escape(str(folder))} is damaged \\(.+\\)$") as error:
        check_arrays(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(folder))
    assert capfd.readouterr() == ("", "")


def test_garbage_is_refused_in_one_line(folder, capfd):
    for file in _list_data_files(folder):
        file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))
    with pytest.raises(WeightsError, match=r"is damaged \(.+\)$") as error:
        check_arrays(folder)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_garbage_in_the_index_is_refused(folder):
    (folder / "manifest.ocdbt").write_bytes(b"garbage" * 20)
    with pytest.raises(WeightsError, match="is damaged"):
        check_arrays(folder)


def test_missing_files_are_refused(folder):
    for file in _list_data_files(folder):
        file.unlink()
    with pytest.raises(WeightsError, match="is damaged"):
        check_arrays(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="nowhere is not a folder"):
        check_arrays(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_without_arrays_is_refused_and_left_empty(tmp_path):
    with pytest.raises(WeightsError, match="holds no arrays"):
        check_arrays(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_has_the_highest_score_and_the_latest_the_most_steps(tmp_path):
    options = ocp.CheckpointManagerOptions(best_fn=get_score, best_mode="max")
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.7)):
            args = ocp.args.StandardSave({"a": np.full(3, step)})
            manager.save(step, args=args, metrics={"score": score})
    assert find_checkpoint(tmp_path, "best") == tmp_path / "2"
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "3"
    shutil.rmtree(tmp_path / "2")
    assert find_checkpoint(tmp_path, "best") == tmp_path / "3"


def test_a_score_that_has_changed_chooses_no_checkpoint(workdir):
    [metrics, *_] = (workdir / "checkpoints").glob("*/metrics/metrics")
    metrics.write_text(metrics.read_text().replace("0", "1", 1))
    with pytest.raises(WeightsError, match=r"the score of .*/checkpoints/\d+ is damaged \(.*metrics has changed since"):
        find_checkpoint(workdir / "checkpoints", "best")
    run = read_trained_run(workdir, "latest")
    assert run.best_epoch is None


def test_a_checkpoint_that_is_deleted_while_the_scores_are_read_is_left_out(workdir, monkeypatch):
    folder, real = workdir / "checkpoints", ocp.CheckpointManager
    first, second = sorted(folder.glob("[0-9]*"))[0], folder / "99"
    shutil.copytree(first, second)

    def list_and_delete(*args, **options):
        if second.exists():
            shutil.rmtree(second)
            raise FileNotFoundError(second)
        return real(*args, **options)

    monkeypatch.setattr(ocp, "CheckpointManager", list_and_delete)
    assert find_checkpoint(folder, "latest") == first


def test_files_that_disappear_while_they_are_checked_are_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).touch()

    def delete(path):
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "lstat", delete)
    _check_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_checkpoint_is_read_if_training_deletes_one_meanwhile(workdir, monkeypatch):
    folder, real = workdir / "checkpoints", orbax._list_tensors
    first = min(folder.glob("[0-9]*"))
    second = shutil.copytree(first, folder / "99")

    def delete_and_list(*args):
        if second.exists():
            shutil.rmtree(second)
        return real(*args)

    monkeypatch.setattr(orbax, "_list_tensors", delete_and_list)
    assert read_weights(workdir, checkpoint="latest").identity == f"latest checkpoint, step {first.name}"


def test_no_checkpoint_is_found_where_there_is_none(tmp_path):
    assert find_checkpoint(tmp_path, "best") is None
    assert find_checkpoint(tmp_path, "latest") is None
    assert list(tmp_path.iterdir()) == []
