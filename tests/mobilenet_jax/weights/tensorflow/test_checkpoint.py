import numpy as np
import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from tests.helpers.weights_files import are_equal, make_random_tensors, write_checkpoint

ARCHITECTURE = Architecture(0.25, "imagenet", 1001, 1, padding="same")
KERNEL = "MobilenetV1/Conv2d_0/weights"
OF_TRAINING = {"beta1_power": np.float32(1)} | {
    f"{KERNEL}/{name}": np.ones((3, 3, 3, 8), np.float32) for name in ("Adam_1", "Adadelta", "ExponentialMovingAverage")
}


def test_a_checkpoint_is_read_by_its_prefix_or_its_index_without_the_variables_of_training(tmp_path):
    prefix = write_checkpoint(tmp_path / "mobilenet_v1_0.25_128.ckpt", ARCHITECTURE, **OF_TRAINING)
    weights = read_weights(prefix)
    assert (weights.architecture, weights.format) == (ARCHITECTURE, "TensorFlow checkpoint")
    assert weights.metadata.image_size == (128, 128)
    assert are_equal(weights.tensors, make_random_tensors(ARCHITECTURE))
    index = read_weights(prefix.with_name(f"{prefix.name}.index"), head=False)
    assert index.architecture == ARCHITECTURE._replace(head=None, num_classes=0)


@pytest.mark.slow
def test_a_quantized_checkpoint_is_refused(tmp_path):
    prefix = write_checkpoint(tmp_path / "w.ckpt", **{"MobilenetV1/Conv2d_0/weights_quant/min": np.float32(0)})
    with pytest.raises(WeightsError, match="tensors that MobileNet does not have: MobilenetV1/Conv2d_0/weights_quant"):
        read_weights(prefix)
