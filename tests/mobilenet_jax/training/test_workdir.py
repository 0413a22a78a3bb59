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


def test_the_events_of_tensorboard_are_the_records(trained):
    from tensorflow.compat.v1.train import summary_iterator

    [file] = (trained / "tensorboard").iterdir()
    events = {(v.tag, e.step): v.simple_value for e in summary_iterator(str(file)) for v in e.summary.value}
    [record] = read_records(trained)
    for tag, name in (("loss/val", "val_loss"), ("accuracy/train", "train_accuracy"), ("run/step", "step")):
        assert events[tag, record["epoch"]] == pytest.approx(record[name], rel=1e-6)
