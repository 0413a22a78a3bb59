"""Grad-CAM is compared with its formula for every head, and run on a model that is trained to see a patch."""

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.grad_cam import draw_explanation, draw_overlay, format_explanation, make_grad_cam
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.weights.layout import HEAD_LAYERS, Architecture
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.metadata import Metadata
from mobilenet_jax.weights.weights import Weights

NAMES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def make_linear_weights(head, kernel):
    """Returns weights whose logits are the mean features of images of 64 x 64 times `kernel`, for any head.

    The random backbone is the same for all heads.
    """
    architecture = Architecture(0.25, head, 7, 4 if head == "article" else 1)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in architecture.compute_shapes().items():
        _, layer, tensor = name.split(".")
        if layer in HEAD_LAYERS[head]:
            continue
        if tensor in ("scale", "var"):
            tensors[name] = np.ones(shape, np.float32)
        else:
            fan_in = max(1, int(np.prod(shape[:-1])))
            tensors[name] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
    zeros = np.zeros(7, np.float32)
    if head == "small":
        tensors |= {"params.predictions.kernel": kernel, "params.predictions.bias": zeros}
    elif head == "imagenet":
        tensors |= {"params.conv_preds.kernel": kernel[None, None], "params.conv_preds.bias": zeros}
    else:  # dense_1 averages the four positions, dense_2 is the identity; ReLU keeps features, which are positive
        tensors |= {
            "params.dense_1.kernel": np.tile(np.eye(256, 1024, dtype=np.float32) / 4, (4, 1)),
            "params.dense_1.bias": np.zeros(1024, np.float32),
            "params.dense_2.kernel": np.eye(1024, dtype=np.float32),
            "params.dense_2.bias": np.zeros(1024, np.float32),
            "params.predictions.kernel": np.pad(kernel, ((0, 768), (0, 0))),
            "params.predictions.bias": zeros,
        }
    return Weights("test", "", architecture, tensors, Metadata((64, 64), (0.0, 1.0), NAMES))


def test_grad_cam_equals_its_formula_for_every_head():
    """Uses heads that are linear in the mean features: the weight of a channel is its kernel over the positions."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(256, 7)).astype(np.float32)
    pixels = rng.integers(0, 256, (7, 64, 64, 3), np.uint8)
    classes = np.arange(7)
    maps = {}
    for head in ("small", "imagenet", "article"):
        classifier = Classifier(make_linear_weights(head, kernel))
        maps[head] = make_grad_cam(classifier)(pixels, classes)
    extract = jax.jit(MobileNet(0.25, None, folded=True).apply, static_argnames="train")
    features = extract(classifier.variables, pixels.astype(np.float32) / 255, train=False)
    expected = np.maximum(np.einsum("nhwc,cn->nhw", features, kernel / 4), 0)
    assert expected.max() > 0
    for cam in maps.values():
        np.testing.assert_allclose(cam, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_grad_cam_differs_between_classes():
    rng = np.random.default_rng(2)
    grad_cam = make_grad_cam(Classifier(make_linear_weights("small", rng.normal(size=(256, 7)).astype(np.float32))))
    pixels = np.tile(rng.integers(0, 256, (1, 64, 64, 3), np.uint8), (7, 1, 1, 1))
    maps = grad_cam(pixels, np.arange(7))
    assert maps.shape == (7, 2, 2)
    assert len({cam.tobytes() for cam in maps}) > 2, "several can be 0 everywhere"


def test_grad_cam_finds_the_patch_that_decides_the_class(weights):
    """Fits a head to ImageNet's features of noise with a square of one of seven colors in a corner."""
    rng, side, corners = np.random.default_rng(0), 224, slice(None, None, 4)  # a corner is 3 x 3 of the 7 x 7 positions
    colors = 255 * np.array([[c & 1, c >> 1 & 1, c >> 2] for c in range(7)])

    def sample(n):
        images = rng.integers(90, 166, (n, side, side, 3), np.uint8)
        labels, places = rng.integers(0, 7, n), rng.integers(0, 2, (n, 2))
        for image, label, (row, column) in zip(images, labels, 128 * places, strict=True):
            image[row : row + 96, column : column + 96] = rng.random((96, 96, 1)) * colors[label]
        return images, labels.astype(np.int32), places

    imagenet = read_weights(weights[0.25])
    images, labels, _ = sample(128)
    backbone = jax.jit(lambda x: MobileNet(0.25, None).apply(imagenet.variables, x, train=False).mean((1, 2)))
    features = np.concatenate([backbone(part / np.float32(127.5) - 1) for part in np.split(images, 8)])
    head = LogisticRegression(max_iter=1000).fit(features, labels)
    trained_head = {
        "params.predictions.kernel": head.coef_.T.astype(np.float32),
        "params.predictions.bias": head.intercept_.astype(np.float32),
    }
    metadata = Metadata((side, side), (-1.0, 1.0), NAMES)
    architecture = Architecture(0.25, "small", 7, 1)
    classifier = Classifier(Weights("test", "", architecture, imagenet.tensors | trained_head, metadata))
    images, labels, places = sample(32)
    assert (classifier.compute_probabilities(images, 32).argmax(1) == labels).mean() > 0.9
    maps = make_grad_cam(classifier)(images, labels)
    sums = np.lib.stride_tricks.sliding_window_view(maps, (3, 3), axis=(1, 2)).sum((3, 4))[:, corners, corners]
    highest = np.stack(np.unravel_index(sums.reshape(32, -1).argmax(1), (2, 2)), axis=1)
    assert (highest == places).all(1).mean() > 0.95


def test_an_overlay_changes_only_pixels_where_the_map_is_positive():
    pixels = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    cam = np.zeros((14, 14), np.float32)
    cam[3, 10] = 7
    left, right = np.split(np.asarray(draw_overlay(pixels, cam)), 2, axis=1)
    np.testing.assert_array_equal(left, pixels)
    changed = (right != pixels).any(2)
    assert not changed[:, :224].any()
    assert not changed[224:].any()
    assert changed[112, 336]
    red, green, blue = right[112, 336].astype(int) - 0.4 * pixels[112, 336]
    assert red > blue + 30, "yellow"
    assert green > blue + 30


def test_an_explanation_has_a_title_and_a_scale_from_the_unchanged_color_to_the_highest():
    pixels = np.full((448, 448, 3), 160, np.uint8)
    cam = np.zeros((14, 14), np.float32)
    cam[3, 10] = 7
    picture = np.asarray(draw_explanation(pixels, cam, "Evidence for MEL (probability 0.812)"))
    overlay = np.asarray(draw_overlay(pixels, cam))
    title_height = picture.shape[0] - 448
    np.testing.assert_array_equal(picture[title_height:, :896], overlay)
    assert (picture[:title_height] < 100).any(), "the text of the title"
    scale = picture[:, 896 + 12]
    in_bar = np.flatnonzero((scale != 255).any(1))
    colors = overlay[:, 448:].reshape(-1, 3)
    np.testing.assert_allclose(scale[in_bar[0]].astype(int), colors[colors[:, 1].argmax()], atol=12)
    np.testing.assert_array_equal(scale[in_bar[-1]], pixels[0, 0])


def test_an_explanation_of_a_low_image_has_room_for_the_scale():
    picture = draw_explanation(np.full((32, 448, 3), 160, np.uint8), np.ones((1, 14), np.float32), "Evidence")
    assert picture.height > 128
    assert (np.asarray(picture)[:, 896 + 12] != 255).any(), "the scale"


def test_an_explanation_names_the_predicted_class_if_it_is_another():
    assert format_explanation("MEL", 0.8124, "MEL", 0.8124) == "Evidence for MEL (probability 0.812)"
    assert format_explanation("DF", 0.1, "NV", 0.9) == "Evidence for DF (probability 0.100), predicted: NV (0.900)"
