"""Tests of the operations on pixels: decoding equals that of training, warping equals Keras's."""

import io
import struct

import cv2
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import apply_affine_transform
from PIL import Image

from input_pipeline.augment import Augmentation, make_affine_matrix, make_color_matrix, sample_affine, sample_color
from input_pipeline.errors import DataError
from input_pipeline.image_ops import (
    augment_images,
    crop_center,
    decode_image,
    describe_limit,
    is_marked_as_rotated,
    preprocess,
    recolor,
    remove_color_cast,
    resize,
    scale_pixels,
    warp,
)
from input_pipeline.preprocessing import STRETCH, Preprocessing
from input_pipeline.tf_graph import can_decode, decode_images

CROP, GRAY = Preprocessing("crop"), Preprocessing("stretch", "shades_of_gray")
ALL = Augmentation(30, 0.3, 0.3, 0.3, 20, True, True, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)


def _assert_decoded_as_in_training(path, size, preprocessing=STRETCH):
    [expected] = decode_images(np.array([str(path)]), size, preprocessing)
    np.testing.assert_array_equal(decode_image(path.read_bytes(), (size, size), preprocessing).pixels, expected)


@pytest.mark.parametrize("size", [14, 28, 50, 128, 224, 700])
def test_real_photographs_are_decoded_as_in_training(real_data, real_photographs, size):
    """Decodes at an eighth, a quarter, a half and all of their size, and larger."""
    for path in [*sorted(real_data.glob("*/*.jpg"))[:5], *real_photographs[:5]]:
        _assert_decoded_as_in_training(path, size)


@pytest.mark.parametrize("size", [14, 28, 56])
def test_decoding_at_a_reduced_size_changes_pixels_by_three_levels_at_most(real_images, size):
    """Decodes at an eighth, a quarter and a half of the size."""
    for image in real_images:
        image.crop((0, 0, 600, 448)).save(file := io.BytesIO(), "JPEG", quality=92)  # whole blocks of 8 x 8
        full = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
        reduced = decode_image(file.getvalue(), (size, size)).pixels
        difference = np.abs(preprocess(full, (size, size), STRETCH) - reduced.astype(int))
        assert 0 < difference.mean() < 0.25
        assert difference.max() <= 3


@pytest.mark.parametrize("side", [8, 16, 32])
def test_jpegs_from_eight_times_the_size_are_decoded_at_a_reduced_size(tmp_path, side):
    for length, is_reduced in ((8 * side - 1, side > 8), (8 * side, True)):
        noise = np.random.default_rng(0).integers(0, 256, (length, length, 3), np.uint8)
        Image.fromarray(noise).save(path := tmp_path / f"{length}.jpg")
        full = preprocess(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), (8, 8), STRETCH)
        assert (decode_image(path.read_bytes(), (8, 8)).pixels != full).any() == is_reduced
        _assert_decoded_as_in_training(path, 8)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "jpeg"), ("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "jpeg")]
)
def test_all_color_modes_are_decoded_as_in_training(tmp_path, mode, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / f"i.{suffix}")
    for size in (32, 64, 200):
        _assert_decoded_as_in_training(tmp_path / f"i.{suffix}", size)


def test_images_beyond_the_limit_of_pillow_are_refused(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "i.jpeg")
    assert describe_limit() == "it has more than 179 megapixels (reduce its size)"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(DataError, match="it is too large: it has more than 0 megapixels"):
        decode_image((tmp_path / "i.jpeg").read_bytes(), (8, 8))


@pytest.mark.parametrize("preprocessing", [CROP, GRAY, Preprocessing("crop", "shades_of_gray")])
@pytest.mark.parametrize(("shape", "suffix"), [((90, 130), "jpeg"), ((301, 75), "jpeg"), ((75, 101), "bmp")])
def test_every_preprocessing_is_that_of_training(tmp_path, preprocessing, shape, suffix):
    noise = np.random.default_rng(0).integers(0, (256, 200, 120), (*shape, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"i.{suffix}")
    plain = decode_image((tmp_path / f"i.{suffix}").read_bytes(), (32, 32)).pixels
    for size in (32, 64, 200):
        _assert_decoded_as_in_training(tmp_path / f"i.{suffix}", size, preprocessing)
    changed = decode_image((tmp_path / f"i.{suffix}").read_bytes(), (32, 32), preprocessing).pixels
    assert np.abs(changed.astype(int) - plain).mean() > 1


OTHER_FORMATS = [
    ("RGB", "bmp"), ("L", "bmp"), ("P", "gif"), ("RGB", "tiff"), ("RGBA", "tiff"), ("CMYK", "tiff"), ("1", "tiff"),
    ("RGB", "webp"), ("RGBA", "webp"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "suffix"), OTHER_FORMATS)
def test_other_formats_are_decoded_as_in_training_and_as_by_pillow(tmp_path, mode, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    path = tmp_path / f"i.{suffix}"
    Image.fromarray(noise).convert(mode).save(path)
    for size in (32, 64, 200):
        _assert_decoded_as_in_training(path, size)
    with Image.open(path) as image:
        np.testing.assert_array_equal(
            decode_image(path.read_bytes(), (90, 130)).pixels, np.asarray(image.convert("RGB"))
        )


@pytest.mark.parametrize("suffix", ["gif", "tiff", "webp"])
def test_the_first_of_several_frames_is_decoded(tmp_path, suffix):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / f"i.{suffix}", save_all=True, append_images=frames[1:])
    pixels = decode_image((tmp_path / f"i.{suffix}").read_bytes(), (32, 32)).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 2
    _assert_decoded_as_in_training(tmp_path / f"i.{suffix}", 32)


def test_the_default_image_of_an_animated_png_is_decoded(tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "i.png", save_all=True, append_images=frames[1:], default_image=True)
    _assert_decoded_as_in_training(tmp_path / "i.png", 32)
    assert decode_image((tmp_path / "i.png").read_bytes(), (32, 32)).pixels[0, 0].tolist() == [255, 0, 0]


def test_formats_may_alternate_between_files(tmp_path):
    paths = [tmp_path / f"i.{suffix}" for suffix in ("webp", "jpg", "bmp", "png", "gif", "tiff")]
    for path in paths:
        Image.new("RGB", (40, 40), "brown").save(path)
    decoded = list(decode_images(np.array([str(path) for path in paths]), 32))
    for path, image in zip(paths, decoded, strict=True):
        np.testing.assert_array_equal(decode_image(path.read_bytes(), (32, 32)).pixels, image)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "webp"])
def test_truncated_images_of_other_formats_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"i.{suffix}")
    with pytest.raises(DataError, match="damaged"):
        decode_image((tmp_path / f"i.{suffix}").read_bytes()[:2000], (32, 32))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_eight_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((40, 40), 300, dtype)).save(tmp_path / "i.tiff")
    with pytest.raises(DataError, match="its mode is [IF].*, more than 8 bits per channel"):
        decode_image((tmp_path / "i.tiff").read_bytes(), (32, 32))


def test_a_color_tiff_of_sixteen_bits_is_refused():
    """Pillow reads its high bytes as an image of the mode RGB."""
    written, content = cv2.imencode(".tiff", np.full((40, 40, 3), 300, np.uint16))
    assert written
    with pytest.raises(DataError, match="its mode is RGB, more than 8 bits per channel"):
        decode_image(content.tobytes(), (32, 32))


@pytest.mark.parametrize("kind", [5, 12])  # of numbers: a fraction, a double
def test_a_tiff_whose_offsets_are_of_another_type_is_refused(tmp_path, kind):
    Image.new("RGB", (40, 40), "brown").save(tmp_path / "i.tiff")
    content = bytearray((tmp_path / "i.tiff").read_bytes())
    offsets = content.index(struct.pack("<HH", 273, 4))  # the tag StripOffsets, of the type long
    content[offsets + 2] = kind
    with pytest.raises(DataError, match="damaged"):
        decode_image(bytes(content), (32, 32))


def test_too_little_memory_is_not_damage(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "i.bmp")

    def convert(image, mode):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(MemoryError):
        decode_image((tmp_path / "i.bmp").read_bytes(), (32, 32))


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_is_decoded_as_in_training(tmp_path, marker):
    """Without the marker APP14, which says whether the values are inverted, decoders disagree."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)
    Image.fromarray(noise, "CMYK").save(data := io.BytesIO(), "JPEG")
    content, app14 = data.getvalue(), b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00\x00"
    assert app14 in content
    (tmp_path / "i.jpg").write_bytes(content if marker else content.replace(app14, b""))
    for size in (8, 32, 64, 200):
        _assert_decoded_as_in_training(tmp_path / "i.jpg", size)


def test_a_jpeg_is_refused_whose_damage_training_refuses():
    """The decoder of OpenCV returns the rows above a damaged marker as a whole image."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG")
    data = bytearray(file.getvalue())
    data[8000:8002] = b"\xff\xd8"  # the marker of the start of an image
    assert not can_decode(bytes(data))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) is not None
    with pytest.raises(DataError, match="it is a truncated or damaged image"):
        decode_image(bytes(data), (32, 32))


def test_the_first_photograph_of_a_phones_file_is_decoded_as_in_training(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 300, 400, 3), np.uint8)
    first, second = map(Image.fromarray, noise)
    first.save(tmp_path / "i.jpg", "MPO", save_all=True, append_images=[second])
    for size in (8, 32, 200):
        _assert_decoded_as_in_training(tmp_path / "i.jpg", size)


def _make_jpeg():
    Image.new("RGB", (64, 64), "brown").save(data := io.BytesIO(), "JPEG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"text", "it is not an image in one of the formats JPEG, PNG"),
        (_make_jpeg()[:300], "it is a truncated or damaged"),
        (b"\xff\xd8\xff", "it is a truncated or damaged JPEG"),
        (b"\0\0\0\x18ftypheic", "it is a HEIC image or a video"),
    ],
)
def test_data_that_are_not_an_image_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        decode_image(data, (32, 32))


@pytest.mark.parametrize(("name", "orientations"), [("JPEG", range(2, 9)), ("MPO", range(2, 9)), ("TIFF", ())])
def test_every_orientation_but_the_upright_is_marked_as_rotated(name, orientations):
    """Pillow rotates TIFF images when it decodes them."""
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        frames = {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]} if name == "MPO" else {}
        Image.new("RGB", (30, 20)).save(file := io.BytesIO(), name, exif=exif, **frames)
        with Image.open(file) as image:
            assert image.format == name
            assert is_marked_as_rotated(image) == (orientation in orientations), orientation


@pytest.mark.parametrize("shape", [(150, 200), (225, 300), (300, 200), (256, 256), (129, 640), (128, 131)])
def test_pixels_of_smaller_images_are_opencvs_means_of_areas(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for size in ((128, 128), (64, 96), (75, 100), (shape[0] // 2, shape[1] // 2), (shape[0] // 3, shape[1] // 2)):
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(resize(image, size), expected)


def test_images_are_resized_by_area_or_by_interpolation():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_allclose(resize(image, (20, 20)), image.reshape(20, 2, 20, 2, 3).mean((1, 3)), atol=0.5)
    expected = tf.image.resize(image, (60, 60)).numpy()
    np.testing.assert_allclose(resize(image, (60, 60)), expected, atol=1)


@pytest.mark.parametrize(
    ("shape", "size", "part"),
    [
        ((150, 200), (64, 64), np.s_[:, 25:175]),
        ((200, 150), (64, 64), np.s_[25:175]),
        ((150, 201), (224, 224), np.s_[:, 25:175]),
        ((150, 200), (32, 64), np.s_[25:125]),
        ((150, 200), (64, 32), np.s_[:, 62:137]),
        ((100, 100), (64, 64), np.s_[:]),
        ((90, 120), (48, 64), np.s_[:]),
        ((1, 300), (64, 64), np.s_[:, 149:150]),
    ],
)
def test_the_longer_side_is_cut_equally_at_both_ends(shape, size, part):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(crop_center(image, size), image[part])
    np.testing.assert_array_equal(preprocess(image, size, CROP), resize(image[part], size))


def test_the_shortest_part_of_an_image_has_one_pixel():
    assert crop_center(np.zeros((1, 300, 3), np.uint8), (32, 64)).shape == (1, 2, 3)
    assert crop_center(np.zeros((1, 300, 3), np.uint8), (64, 32)).shape == (1, 1, 3)


def test_the_color_cast_is_that_of_shades_of_gray():
    image = np.random.default_rng(0).integers(0, (256, 180, 90), (40, 50, 3), np.uint8)
    image[0, 0] = 255
    light = [(np.float64(image[..., i]) ** 6).mean() ** (1 / 6) for i in range(3)]
    expected = np.stack([image[..., i] * np.mean(light) / light[i] for i in range(3)], -1)
    corrected = remove_color_cast(image)
    assert corrected.dtype == np.uint8
    np.testing.assert_array_equal(corrected, np.clip(np.round(expected), 0, 255))
    assert (expected > 255).any(), "the clipping is tested, too"


def test_gray_light_is_left_as_it_is():
    gray = np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8).repeat(3, 2)
    assert np.abs(remove_color_cast(gray).astype(int) - gray).max() <= 1


def test_the_color_cast_of_black_is_defined():
    black, red = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 90
    np.testing.assert_array_equal(remove_color_cast(black), black)
    np.testing.assert_array_equal(remove_color_cast(red), red // 3)  # the average of 90, 0 and 0


def _warp(image, matrix, fill_mode="nearest"):
    warp(image, matrix, Augmentation(fill_mode=fill_mode, fill_value=90.0), out := np.empty(image.shape, np.float32))
    return out


def _find_just_outside(matrix, size):
    y, x = np.mgrid[:size, :size]
    source = np.tensordot(matrix[:2], np.stack([x, y, np.ones_like(x)]), 1)
    outside = np.maximum(-source, source - (size - 1)).max(0)  # [y, x], in pixels
    return (outside > -1e-3) & (outside < 1 + 1e-3)


@pytest.mark.parametrize("fill_mode", ["nearest", "constant", "reflect"])
def test_warp_equals_keras_on_real_images(real_images, fill_mode):
    size, rng = 96, np.random.default_rng(0)
    images = [np.asarray(image.resize((size, size))) for image in real_images]
    for image in images * 51:  # 204 sets of parameters
        theta, dx, dy = rng.uniform(-30, 30), *rng.uniform(-0.3, 0.3, 2) * size
        zoom_x, zoom_y = rng.uniform(0.7, 1.3, 2)
        flip, upside_down, shear = rng.random() < 0.5, rng.random() < 0.5, rng.uniform(-20, 20)
        matrix = make_affine_matrix(theta, dx, dy, zoom_x, zoom_y, flip, size, shear=shear, upside_down=upside_down)
        # Keras's tx moves along the columns, although its generator samples it from height_shift_range.
        expected = apply_affine_transform(
            image.astype(np.float32), theta, dx, dy, shear, zoom_x, zoom_y, 0, 1, 2, fill_mode=fill_mode, cval=90
        )
        expected = expected[:, ::-1] if flip else expected
        expected = expected[::-1] if upside_down else expected
        difference = np.abs(_warp(image, matrix, fill_mode) - expected)
        if fill_mode == "constant":  # less than a pixel beyond the edge, OpenCV blends and Keras does not
            difference[_find_just_outside(matrix, size)] = 0
        assert difference.max() < 0.05


def test_the_identity_matrix_leaves_an_image_unchanged(real_images):
    image = np.asarray(real_images[0].resize((64, 64)))
    np.testing.assert_array_equal(_warp(image, np.eye(3, dtype=np.float32)), image)


def test_width_shift_moves_along_the_columns():
    """Checks the documented deviation from Keras, where width_shift_range moves along the rows."""
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 1
    assert _warp(image, make_affine_matrix(0, 2, 0, 1, 1, False, 9))[4, 2, 0] == 1


def test_a_wrapped_image_continues_at_the_opposite_side():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    moved = _warp(image, make_affine_matrix(0, 1, 2, 1, 1, False, 4), "wrap")
    np.testing.assert_allclose(moved, np.roll(image, (-2, -1), (0, 1)), atol=1e-4)


def test_each_color_factor_has_its_documented_effect(real_images):
    image = np.asarray(real_images[0].resize((32, 32)), np.float32)

    def recolor_by(*factors):
        return recolor(image, make_color_matrix(*factors))

    gray = image @ np.array([0.299, 0.587, 0.114])
    mean = image.mean((0, 1))
    np.testing.assert_allclose(recolor_by(1, 1, 1, 0), image, atol=0.01)
    np.testing.assert_allclose(recolor_by(0.5, 1, 1, 0), image * 0.5, atol=0.01)
    np.testing.assert_allclose(recolor_by(1, 0.5, 1, 0), mean + 0.5 * (image - mean), atol=0.01)
    np.testing.assert_allclose(recolor_by(1, 1, 0, 0), np.repeat(gray[..., None], 3, 2), atol=0.5)
    np.testing.assert_allclose(recolor_by(1, 1, 1, 1), image, atol=0.01)
    half = recolor_by(1, 1, 0.2, 0.5)
    np.testing.assert_allclose(half @ [0.299, 0.587, 0.114], gray, atol=0.5)  # a rotation keeps the luminance
    np.testing.assert_allclose(half - gray[..., None], -0.2 * (image - gray[..., None]), atol=1)
    assert recolor_by(1.5, 1.5, 1.5, 0).max() <= 255


def test_each_operation_is_the_same_inside_tf_data(real_images):
    image = np.asarray(real_images[0])
    small = resize(image, (48, 48))
    affine, color = sample_affine(ALL, 0, 0, 1, 48), sample_color(ALL, 0, 0, 1)
    operations = [
        (lambda x: resize(x, (48, 48)), image, tf.uint8),
        (lambda x: recolor(x, color[0]), small.astype(np.float32), tf.float32),
        (lambda x: scale_pixels(x, (-1.0, 1.0)), image, tf.float32),
        (lambda x: augment_images(x, affine, color, ALL, (-1.0, 1.0)), small[None], tf.float32),
    ]
    for operation, pixels, dtype in operations:
        dataset = tf.data.Dataset.from_tensors(pixels).map(
            lambda x, operation=operation, dtype=dtype: tf.numpy_function(operation, [x], dtype)
        )
        np.testing.assert_array_equal(next(dataset.as_numpy_iterator()), operation(pixels))
