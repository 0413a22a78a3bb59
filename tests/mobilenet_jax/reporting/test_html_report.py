import base64
import io
from types import SimpleNamespace

import numpy as np
from PIL import Image

from input_pipeline.image_ops import decode_image
from mobilenet_jax.reporting.html_report import _build_galleries, _build_thumbnail
from tests.helpers.predictions import make_predictions


def test_galleries_begin_with_the_worst_error_and_the_smallest_margin(monkeypatch):
    p = [[0.6, 0.3, 0.1, 0.0], [0.9, 0.05, 0.05, 0.0], [0.5, 0.49, 0.01, 0.0], [0.1, 0.1, 0.45, 0.35]]
    evaluation = SimpleNamespace(predictions=make_predictions([1, 1, 0, 3], np.array(p)))
    monkeypatch.setattr("mobilenet_jax.reporting.html_report._build_thumbnail", lambda evaluation, row: int(row))
    worst, least_certain = (gallery["thumbnails"] for gallery in _build_galleries(evaluation))
    assert worst == [1, 0, 3]
    assert least_certain == [2, 3, 0, 1]


def test_a_thumbnail_looks_like_the_input_of_the_network(tmp_path):
    gradient = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    Image.fromarray(gradient).save(tmp_path / "gray.png")
    evaluation = SimpleNamespace(predictions=make_predictions([0], np.eye(4)[:1]), paths=[str(tmp_path / "gray.png")])
    thumbnail = _build_thumbnail(evaluation, 0)["data"].partition("base64,")[2]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail))), np.float32)
    expected = decode_image((tmp_path / "gray.png").read_bytes(), (64, 64)).pixels
    assert expected.std() > 50
    assert np.abs(pixels - expected).max() < 8  # of a JPEG
