"""Images decoded for a trained model have the pixels that training saw."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from input_pipeline.errors import DataError
from input_pipeline.image_ops import decode, resize
from input_pipeline.image_reader import read_images
from input_pipeline.tf_graph import decoded


def _assert_as_in_training(path, size):
    [expected] = decoded(np.array([str(path)]), size)
    np.testing.assert_array_equal(decode(path.read_bytes(), (size, size)), expected)


@pytest.mark.parametrize("size", [32, 50, 128, 224, 700])
def test_real_photographs_are_decoded_as_in_training(real_data, real_photographs, size):
    """At an eighth, a quarter, a half and the whole of their size, and larger."""
    for path in [*sorted(real_data.glob("*/*.jpg"))[:5], *real_photographs[:5]]:
        _assert_as_in_training(path, size)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "jpeg"), ("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "jpeg")]
)
def test_every_kind_of_image_is_decoded_as_in_training(tmp_path, mode, kind):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / f"i.{kind}")
    for size in (32, 64, 200):
        _assert_as_in_training(tmp_path / f"i.{kind}", size)


def test_cmyk_is_decoded_as_in_training_to_two_levels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)
    Image.fromarray(noise, "CMYK").save(tmp_path / "i.jpg")
    [expected] = decoded(np.array([str(tmp_path / "i.jpg")]), 64)
    difference = decode((tmp_path / "i.jpg").read_bytes(), (64, 64)).astype(int) - expected
    assert np.abs(difference).max() <= 2


def _jpeg(side=64):
    Image.new("RGB", (side, side), "brown").save(data := io.BytesIO(), "JPEG")
    return data.getvalue()


@pytest.mark.parametrize("data", [b"", b"text", _jpeg()[:300], b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(DataError, match="it is "):
        decode(data, (32, 32))


@pytest.mark.parametrize("batch_size", [1, 3, 20, 100])
def test_files_are_read_in_order_and_those_that_cannot_be_are_named(tmp_path, batch_size):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 40), (i, 2 * i, 3 * i)).save(path)
    paths[4].write_text("no image")
    paths[7].unlink()
    Image.new("RGB", (40, 40)).save(paths[18], "BMP")
    batches = list(read_images([str(path) for path in paths], (32, 48), batch_size))
    assert len(batches) == -(-40 // batch_size)
    index = np.concatenate([batch.positions for batch in batches])
    assert index.tolist() == [i for i in range(40) if i not in (4, 7, 18)]
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert pixels.shape == (37, 32, 48, 3)
    np.testing.assert_array_equal(pixels[:, 0, 0], [(i, 2 * i, 3 * i) for i in index])
    assert [fault for batch in batches for fault in batch.faults] == [
        f"{paths[4]} cannot be read (it is no JPEG or PNG, or a damaged one)",
        f"{paths[7]} cannot be read (No such file or directory)",
        f"{paths[18]} cannot be read (it is no JPEG or PNG, or a damaged one)",
    ]


@pytest.mark.parametrize("shape", [(150, 200), (225, 300), (300, 200), (256, 256), (129, 640), (128, 131)])
def test_made_smaller_pixels_are_opencvs_means_of_areas(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for size in ((128, 128), (64, 96), (75, 100), (shape[0] // 2, shape[1] // 2), (shape[0] // 3, shape[1] // 2)):
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(resize(image, size), expected)
