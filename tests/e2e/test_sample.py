import pytest

from configs.mobilenet import get_config
from mobilenet_jax.training.loop import train_and_evaluate
from tests.helpers.runs import read_records


@pytest.mark.slow
def test_the_sample_is_learned_from_random_weights(tmp_path):
    train_and_evaluate(get_config(), tmp_path / "run")
    scores = [record["val_balanced_accuracy"] for record in read_records(tmp_path / "run")]
    assert min(scores[19:]) >= 0.80
    assert scores[-1] >= 0.93
