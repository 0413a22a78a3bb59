"""The shapes of tensors are those of the model."""

import jax
import numpy as np
import pytest

from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.layout import Architecture


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("head", [None, "imagenet", "small", "article", "article_bn"])
def test_computed_shapes_are_those_of_the_model(alpha, head):
    images = np.zeros((1, 64, 96, 3), np.float32)
    model = MobileNet(alpha, head, num_classes=11)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    expected = {
        f"{collection}.{layer}.{tensor}": leaf.shape
        for collection in ("params", "batch_stats")
        for layer, tensors in variables[collection].items()
        for tensor, leaf in tensors.items()
    }
    positions = 6 if head in ("article", "article_bn") else 1
    architecture = Architecture(alpha, head, 11 if head else 0, positions)
    assert architecture.compute_shapes() == expected
    assert Architecture.from_shapes(expected) == architecture
