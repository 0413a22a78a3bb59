"""What Grad-CAM computes: by its formula, at any head, and on a model that is known to look at a patch."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.mobilenet import get_config
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.grad_cam import make_grad_cam, overlay
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule
from mobilenet_jax.training.step import create_train_state, make_train_step
from mobilenet_jax.weights.layout import Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.weights import Weights
from mobilenet_jax.weights.weights_file import Metadata

NAMES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def head_weights(head, kernels):
    """Random backbone of alpha 0.25 for images of 64 x 64, and a head whose logits are the pooled features x kernel."""
    architecture = Architecture(0.25, head, 7, 4 if head == "article" else 1)
    model = architecture.build_model()
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)

    backbone = {
        c: {k: v for k, v in t.items() if k.startswith("conv") and k != "conv_preds"} for c, t in shapes.items()
    }
    variables = jax.tree_util.tree_map_with_path(draw, backbone)
    zeros = np.zeros(7, np.float32)
    if head == "small":
        variables["params"]["predictions"] = {"kernel": kernels, "bias": zeros}
    elif head == "imagenet":
        variables["params"]["conv_preds"] = {"kernel": kernels[None, None], "bias": zeros}
    else:  # the mean of four positions, then as it is: features are positive, so ReLU leaves them
        one = np.zeros(1024, np.float32)
        mean = np.tile(np.eye(256, 1024, dtype=np.float32) / 4, (4, 1))
        variables["params"] |= {
            "dense_1": {"kernel": mean, "bias": one},
            "dense_2": {"kernel": np.eye(1024, dtype=np.float32), "bias": one},
            "predictions": {"kernel": np.pad(kernels, ((0, 768), (0, 0))), "bias": zeros},
        }
    tensors = {
        f"{collection}.{layer}.{name}": value
        for collection, layers in variables.items()
        for layer, values in layers.items()
        for name, value in values.items()
    }
    return Weights("test", architecture, tensors, Metadata((64, 64), (0.0, 1.0), NAMES))


def test_grad_cam_is_that_of_the_formula_and_equal_between_heads():
    """With a head that is linear in the mean of the features, a channel weighs its kernel over the positions."""
    rng = np.random.default_rng(1)
    kernels = rng.normal(size=(256, 7)).astype(np.float32)
    pixels = rng.integers(0, 256, (7, 64, 64, 3), np.uint8)
    classes = np.arange(7)
    cams = {}
    for head in ("small", "imagenet", "article"):
        classifier = Classifier(head_weights(head, kernels))
        cams[head] = make_grad_cam(classifier)(pixels, classes)
    features = MobileNet(0.25, None).apply(classifier.variables, jnp.asarray(pixels, jnp.float32) / 255, train=False)
    expected = np.maximum(np.einsum("nhwc,cn->nhw", features, kernels / 4), 0)
    assert expected.max() > 0
    for cam in cams.values():
        np.testing.assert_allclose(cam, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_grad_cam_changes_with_the_class():
    rng = np.random.default_rng(2)
    grad_cam = make_grad_cam(Classifier(head_weights("small", rng.normal(size=(256, 7)).astype(np.float32))))
    pixels = np.tile(rng.integers(0, 256, (1, 64, 64, 3), np.uint8), (7, 1, 1, 1))
    cams = grad_cam(pixels, np.arange(7))
    assert cams.shape == (7, 2, 2)
    assert len({cam.tobytes() for cam in cams}) > 2  # several are all 0: nothing speaks for those classes


def test_grad_cam_finds_the_patch_that_a_model_was_trained_to_see(weights):
    """A square of one of seven colors in a corner of noise; the classifier is trained on ImageNet's features."""
    rng, side, corners = np.random.default_rng(0), 224, slice(None, None, 4)  # of 7 x 7 positions, 3 x 3 are a corner
    colors = 255 * np.array([[c & 1, c >> 1 & 1, c >> 2] for c in range(7)])

    def draw(n):
        images = rng.integers(90, 166, (n, side, side, 3), np.uint8)
        labels, places = rng.integers(0, 7, n), rng.integers(0, 2, (n, 2))
        for image, label, (row, column) in zip(images, labels, 128 * places, strict=True):
            image[row : row + 96, column : column + 96] = rng.random((96, 96, 1)) * colors[label]
        return images, labels.astype(np.int32), places

    model = MobileNet(0.25, "small", dropout=0.0, frozen_blocks=13)
    start = read_weights(weights[0.25])
    head = {"predictions": {"kernel": jnp.zeros((256, 7)), "bias": jnp.zeros(7)}}
    config = get_config()
    config.optimizer.learning_rate = 0.1
    optimizer = make_optimizer(config, make_schedule(config, 100), model)
    variables = jax.tree.map(jnp.array, start.variables)
    state = create_train_state(variables["params"] | head, variables["batch_stats"], optimizer)
    step = make_train_step(model, optimizer, jax.random.key(0))
    for _ in range(60):
        images, labels, _ = draw(16)
        batch = {"image": jnp.asarray(images / 127.5 - 1, jnp.float32), "label": jnp.asarray(labels)}
        state, _, _ = step(state, batch, jnp.float32(1))
    tensors = start.tensors | {f"params.predictions.{k}": np.array(v) for k, v in state.params["predictions"].items()}
    found = Weights("test", Architecture(0.25, "small", 7, 1), tensors, Metadata((side, side), (-1.0, 1.0), NAMES))
    images, labels, places = draw(32)
    classifier = Classifier(found)
    assert (classifier.probabilities(images, 32).argmax(1) == labels).mean() > 0.9
    cams = make_grad_cam(classifier)(images, labels)
    sums = np.lib.stride_tricks.sliding_window_view(cams, (3, 3), axis=(1, 2)).sum((3, 4))[:, corners, corners]
    highest = np.stack(np.unravel_index(sums.reshape(32, -1).argmax(1), (2, 2)), axis=1)
    assert (highest == places).all(1).mean() > 0.95


def test_an_overlay_leaves_what_does_not_count_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    cam = np.zeros((14, 14), np.float32)
    cam[3, 10] = 7
    left, right = np.split(np.asarray(overlay(pixels, cam)), 2, axis=1)
    np.testing.assert_array_equal(left, pixels)
    changed = (right != pixels).any(2)
    assert not changed[:, :224].any()
    assert not changed[224:].any()
    assert changed[112, 336]
    red, green, blue = right[112, 336].astype(int) - 0.4 * pixels[112, 336]
    assert red > blue + 30, "yellow"
    assert green > blue + 30
