import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.batches import make_eval_batches
from input_pipeline.errors import DataError
from input_pipeline.sources.isic import read_isic
from input_pipeline.validation import validate_images

IMAGES = "ISIC2018_Task3_Training_Input"


def _png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "is a truncated or damaged JPEG"),
        (lambda data: data[:-2], "is a truncated or damaged JPEG"),
        (lambda data: b"\x89PNG\r\n\x1a\n" + data, "is no image"),
        (lambda data: b"<html>" + data, "is no image"),
        (lambda data: _png_header(20_000, 20_000), "is too large"),
        (lambda data: _png_header(12_000, 1_000), "is 12000 x 1000 pixels, not 8 to 10000 a side"),
        (lambda data: _png_header(1, 1), "is 1 x 1 pixels"),
    ],
)
def test_broken_images_are_named_with_their_row(tiny_isic, damage, message):
    path = tiny_isic / IMAGES / "ISIC_0000005.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"ISIC_0000005.jpg \(ISIC2018.*csv:7\) {message}") as error:
        validate_images(read_isic(tiny_isic))
    assert "\n" not in str(error.value)


def test_all_faults_are_named_at_once(tiny_isic):
    for number in (3, 20, 41):
        (tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 things are wrong .*, the first is: .*ISIC_0000003\.jpg") as error:
        validate_images(read_isic(tiny_isic))
    rows = [re.search(r"ISIC_(\d+)\.jpg \(ISIC2018.*csv:(\d+)\) is empty", d).groups() for d in error.value.details]
    assert rows == [("0000003", "5"), ("0000020", "22"), ("0000041", "43")]


def test_what_is_no_file_is_named_and_not_waited_for(tiny_isic):
    for number, make in ((3, os.mkdir), (4, os.mkfifo), (5, lambda path: os.symlink("/dev/zero", path))):
        path = tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg"
        path.unlink()
        make(path)
    with pytest.raises(DataError, match="3 things") as error:
        validate_images(read_isic(tiny_isic))
    assert all("is a folder or a special file: replace it" in fault for fault in error.value.details)


def _replace(tiny_isic, number, save):
    path = tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg"
    with Image.open(path) as image:
        image.load()
    save(image, path)
    return np.asarray(image.convert("RGB"), np.float32)


def test_grey_cmyk_and_png_images_are_read_as_they_look(tiny_isic, capsys):
    ways = [
        lambda image, path: image.convert("L").save(path, "JPEG", quality=98),
        lambda image, path: image.convert("CMYK").save(path, "JPEG", quality=98, subsampling=0),
        lambda image, path: image.save(path, "PNG"),
        lambda image, path: image.save(path, "JPEG", quality=98, subsampling=0, progressive=True),
        lambda image, path: image.save(
            path, "MPO", quality=98, subsampling=0, save_all=True, append_images=[Image.new("RGB", (40, 40))]
        ),
    ]
    expected = [_replace(tiny_isic, i, way) for i, way in enumerate(ways)]
    expected[0] = np.repeat((expected[0] @ np.array([0.299, 0.587, 0.114]))[..., None], 3, 2)
    examples = read_isic(tiny_isic)
    validate_images(examples)
    assert capsys.readouterr().err == ""
    found = next(make_eval_batches(examples, image_size=40, scaling=(0.0, 255.0), batch_size=5))["image"]
    assert np.abs(found - np.stack(expected)).mean() < 2


def test_what_is_only_suspicious_is_a_warning(tiny_isic, tmp_path, capsys):
    images = tiny_isic / IMAGES
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000002.jpg")
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000041.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    _replace(tiny_isic, 7, lambda image, path: image.save(path, exif=exif))
    shutil.move(images / "ISIC_0000008.jpg", tmp_path / "elsewhere.jpg")
    (images / "ISIC_0000008.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    examples = read_isic(tiny_isic)
    validate_images(examples)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert re.fullmatch(r"warning: .*ISIC_0000007.jpg \(.*csv:9\) is marked as turned \(EXIF\).*", said[0])
    assert re.fullmatch(r"warning: .*ISIC_0000008.jpg \(.*csv:10\) is a link to .*elsewhere.jpg, outside.*", said[1])
    assert said[2] == (
        "warning: identical images: ISIC_0000000.jpg, ISIC_0000002.jpg, ISIC_0000041.jpg (3 lesions, 2 classes)"
    )
    validate_images(examples.take(np.array([*np.flatnonzero(examples.labels != 3), 18])))
    assert "class AKIEC has 1 examples, too few to measure" in capsys.readouterr().err
