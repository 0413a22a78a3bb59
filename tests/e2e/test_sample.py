import pytest

from configs.mobilenet import get_config
from mobilenet_jax.training.loop import train_and_evaluate


@pytest.mark.slow
def test_the_sample_is_learned_from_random_weights(tmp_path):
    summary = train_and_evaluate(get_config(), tmp_path / "run")
    assert summary["best"]["val_balanced_accuracy"] >= 0.60
