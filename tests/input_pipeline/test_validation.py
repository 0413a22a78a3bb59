import os
import re
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from input_pipeline import validation
from input_pipeline.batches import BatchOptions, make_eval_batches
from input_pipeline.errors import DataError
from input_pipeline.examples import Faults
from input_pipeline.sources.isic import GROUPINGS, INPUT, read_isic
from input_pipeline.sources.registry import read_split
from input_pipeline.validation import drop_damaged_images, validate_images
from tests.helpers.datasets import TRUTH_FILE, add_official_sets

IMAGES, TRUTH = INPUT.format("Training"), TRUTH_FILE.format("Training")


def _make_png(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "is a truncated or damaged JPEG"),
        (lambda data: data[:-2], "is a truncated or damaged JPEG"),
        (lambda data: b"\x89PNG\r\n\x1a\n" + data, "is a truncated or damaged PNG"),
        (lambda data: b"<html>" + data, "is not an image"),
        (lambda data: b"\x00\x00\x00\x18ftypheic" + data, "is a HEIC image or a video, which cannot be read .convert"),
        (lambda data: _make_png(20_000, 20_000), "is too large"),
        (lambda data: _make_png(12_000, 1_000), "is 12000 x 1000 pixels, not 8 to 10000 per side"),
        (lambda data: _make_png(1, 1), "is 1 x 1 pixels"),
        (lambda data: _make_png(7, 8), "is 7 x 8 pixels"),
    ],
)
def test_damaged_images_are_reported_with_their_row(tiny_isic, damage, message):
    path = tiny_isic / IMAGES / "ISIC_0000005.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"ISIC_0000005.jpg \(ISIC2018.*csv:7\) {message}") as error:
        validate_images(read_isic(tiny_isic))
    assert "\n" not in str(error.value)


def test_images_of_eight_pixels_are_valid(tiny_isic):
    Image.new("RGB", (8, 8)).save(tiny_isic / IMAGES / "ISIC_0000005.jpg")
    validate_images(read_isic(tiny_isic), faults := Faults())
    assert list(faults) == []


@pytest.mark.parametrize("exif", [b"II*\0", b"II+\0\x08\0\0\0", b"junk"])
def test_an_image_with_damaged_exif_data_is_upright(tiny_isic, exif, caplog):
    """Pillow reads the EXIF data for the density, which the header of these files specifies already."""
    path = tiny_isic / IMAGES / "ISIC_0000005.jpg"
    with Image.open(path) as image:
        image.save(path, dpi=(72, 72), exif=b"Exif\0\0" + exif)
    validate_images(read_isic(tiny_isic))
    assert "ISIC_0000005" not in caplog.text


def test_all_faults_are_reported_at_once(tiny_isic):
    for number in (3, 20, 41):
        (tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 faults in the data, the first: .*ISIC_0000003\.jpg") as error:
        validate_images(read_isic(tiny_isic))
    rows = [re.search(r"ISIC_(\d+)\.jpg \(ISIC2018.*csv:(\d+)\) is empty", d).groups() for d in error.value.details]
    assert rows == [("0000003", "5"), ("0000020", "22"), ("0000041", "43")]


def test_folders_and_special_files_are_reported_without_being_read(tiny_isic):
    for number, make in ((3, os.mkdir), (4, os.mkfifo), (5, lambda path: os.symlink("/dev/zero", path))):
        path = tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg"
        path.unlink()
        make(path)
    with pytest.raises(DataError, match="3 faults") as error:
        validate_images(read_isic(tiny_isic))
    assert all("is a folder or a special file: replace it" in fault for fault in error.value.details)


def test_images_without_read_permission_are_reported(tiny_isic, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("input_pipeline.validation.read_image_bytes", refuse)
    with pytest.raises(DataError, match=r"42 faults .*ISIC_0000000.jpg \(.*csv:2\) cannot be read \(Permission denied"):
        validate_images(read_isic(tiny_isic))


def _replace(tiny_isic, number, save):
    path = tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg"
    with Image.open(path) as image:
        image.load()
    save(image, path)
    return np.asarray(image.convert("RGB"), np.float32)


def test_gray_cmyk_progressive_png_and_mpo_images_are_valid_and_decoded_correctly(tiny_isic, caplog):
    formats = [
        lambda image, path: image.convert("L").save(path, "JPEG", quality=98),
        lambda image, path: image.convert("CMYK").save(path, "JPEG", quality=98, subsampling=0),
        lambda image, path: image.save(path, "PNG"),
        lambda image, path: image.save(path, "JPEG", quality=98, subsampling=0, progressive=True),
        lambda image, path: image.save(
            path, "MPO", quality=98, subsampling=0, save_all=True, append_images=[Image.new("RGB", (40, 40))]
        ),
    ]
    expected = [_replace(tiny_isic, i, save) for i, save in enumerate(formats)]
    expected[0] = np.repeat((expected[0] @ np.array([0.299, 0.587, 0.114]))[..., None], 3, 2)
    examples = read_isic(tiny_isic)
    validate_images(examples)
    assert not caplog.records
    options = BatchOptions(image_size=40, input_scaling=(0.0, 255.0), batch_size=5, seed=0)
    decoded = next(make_eval_batches(examples, options))["image"]
    assert np.abs(decoded - np.stack(expected)).mean() < 2


@pytest.mark.parametrize("image_format", ["WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_are_valid_and_their_damage_is_reported(tiny_isic, caplog, image_format):
    path = tiny_isic / IMAGES / "ISIC_0000005.jpg"
    _replace(tiny_isic, 5, lambda image, path: image.save(path, image_format))
    validate_images(read_isic(tiny_isic))
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    fault = {"WEBP": "is a truncated or damaged WEBP"}.get(
        image_format, r"cannot be decoded \(it is a truncated or damaged image\)"
    )
    with pytest.raises(DataError, match=rf"ISIC_0000005.jpg \(ISIC2018.*csv:7\) {fault}: replace it"):
        validate_images(read_isic(tiny_isic))


def test_unsupported_formats_and_deep_colors_are_refused_by_name(tiny_isic):
    _replace(tiny_isic, 5, lambda image, path: image.save(path, "PPM"))
    _replace(tiny_isic, 6, lambda image, path: image.convert("F").save(path, "TIFF"))
    with pytest.raises(DataError) as error:
        validate_images(read_isic(tiny_isic))
    first, second = error.value.details
    assert "csv:7) has the format PPM, not one of JPEG, PNG, WEBP, BMP, TIFF, GIF: replace it" in first
    assert "csv:8) cannot be decoded (its mode is F, more than 8 bits per channel): replace it" in second


def test_damaged_images_are_left_out_and_listed_on_request(tiny_isic, caplog):
    for number in (3, 20):
        (tiny_isic / IMAGES / f"ISIC_{number:07d}.jpg").write_bytes(b"")
    examples = read_isic(tiny_isic)
    rest = drop_damaged_images(examples)
    assert rest.paths.tolist() == [path for path in examples.paths if "03.jpg" not in path and "20.jpg" not in path]
    assert caplog.messages[0] == "leaving out 2 of 42 images, which cannot be read:"
    assert [re.search(r"ISIC_(\d+).jpg .* is empty", line)[1] for line in caplog.messages[1:]] == ["0000003", "0000020"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    caplog.clear()
    assert len(drop_damaged_images(rest)) == 40
    assert not caplog.records


def test_a_data_set_of_damaged_images_only_is_refused(tiny_isic):
    for path in (tiny_isic / IMAGES).iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"42 faults in the data, the first: .* is empty"):
        drop_damaged_images(read_isic(tiny_isic))


@pytest.mark.parametrize("split", ["lesion", "official"])
def test_faults_in_tables_are_reported_even_if_damaged_images_are_skipped(tiny_isic, split):
    add_official_sets(tiny_isic)
    (tiny_isic / IMAGES / "ISIC_0000003.jpg").write_bytes(b"")
    sides = read_split("isic2018", tiny_isic, split, val_fraction=0.3, seed=0, skip_damaged=True)
    assert sum(map(len, sides)) == {"lesion": 41, "official": 83}[split]
    (tiny_isic / IMAGES / "ISIC_0000004.jpg").unlink()
    with pytest.raises(DataError, match="csv:6: there is no .*ISIC_0000004.jpg"):
        read_split("isic2018", tiny_isic, split, val_fraction=0.3, seed=0, skip_damaged=True)


def test_identical_images_of_unknown_lesions_are_not_counted_as_lesions(tiny_isic, caplog):
    (tiny_isic / GROUPINGS).unlink()
    shutil.copy(tiny_isic / IMAGES / "ISIC_0000000.jpg", tiny_isic / IMAGES / "ISIC_0000041.jpg")
    validate_images(read_isic(tiny_isic))
    *_, copies, identical = caplog.messages
    assert copies.startswith("2 images have copies that a split can separate from them")
    assert [identical] == ["identical images in different classes: ISIC_0000000.jpg, ISIC_0000041.jpg"]


def test_copies_of_one_lesion_are_no_danger_for_a_split(tiny_isic, caplog):
    lesion_of = dict(line.split(",")[:2] for line in (tiny_isic / GROUPINGS).read_text().splitlines())
    first = next(image for image in lesion_of if list(lesion_of.values()).count(lesion_of[image]) > 1)
    second = next(image for image in lesion_of if image != first and lesion_of[image] == lesion_of[first])
    shutil.copy(tiny_isic / IMAGES / f"{first}.jpg", tiny_isic / IMAGES / f"{second}.jpg")
    validate_images(read_isic(tiny_isic))
    assert caplog.messages == [f"identical images: {first}.jpg, {second}.jpg"]


def test_a_png_of_16_bits_is_refused(tiny_isic):
    """Its lower 8 bits would be dropped: one of 12 bits in 16, such as an X-ray image, would be nearly black."""
    path = tiny_isic / IMAGES / "ISIC_0000003.jpg"
    path.write_bytes(cv2.imencode(".png", np.full((40, 40, 3), 4095, np.uint16))[1].tobytes())
    with pytest.raises(DataError, match="ISIC_0000003.jpg .* has 16 bits per channel, which cannot be read"):
        validate_images(read_isic(tiny_isic))


def test_many_identical_images_are_named_in_a_short_line(tiny_isic, caplog):
    for i in range(1, 8):
        shutil.copy(tiny_isic / IMAGES / "ISIC_0000000.jpg", tiny_isic / IMAGES / f"ISIC_{i:07d}.jpg")
    validate_images(read_isic(tiny_isic))
    assert caplog.messages[-1].endswith("ISIC_0000004.jpg and 3 more")


def test_suspicious_images_are_logged_as_warnings(tiny_isic, tmp_path, caplog):
    images = tiny_isic / IMAGES
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000002.jpg")
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000041.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    _replace(tiny_isic, 6, lambda image, path: image.save(path, "PNG", exif=exif))
    _replace(tiny_isic, 7, lambda image, path: image.save(path, exif=exif))
    shutil.move(images / "ISIC_0000008.jpg", tmp_path / "elsewhere.jpg")
    (images / "ISIC_0000008.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    examples = read_isic(tiny_isic)
    validate_images(examples)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    rotated, linked, copies, identical = caplog.messages
    path = images / "ISIC_0000006.jpg"
    assert rotated.startswith(f"2 of 42 images, such as {path}, are marked as rotated (EXIF) and are read as stored; ")
    assert re.fullmatch(r".*ISIC_0000008.jpg \(.*csv:10\) is a link to .*elsewhere.jpg, outside.*", linked)
    assert copies.startswith("3 images have copies")
    assert identical == ("identical images in different classes: ISIC_0000000.jpg, ISIC_0000002.jpg, ISIC_0000041.jpg")
    validate_images(examples.take(np.array([*np.flatnonzero(examples.labels != 3), 18])))
    assert "class AKIEC has 1 examples, too few to measure" in caplog.messages


@pytest.fixture
def inspected(monkeypatch, tmp_path):
    """Records the images that are inspected, with a cache folder that is empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    inspect = validation._inspect_image
    monkeypatch.setattr(validation, "_inspect_image", lambda *args: calls.append(args) or inspect(*args))
    return calls


def _split(folder, split="lesion"):
    return read_split("isic2018", folder, split, val_fraction=0.3, seed=0)


def test_a_result_is_remembered_with_its_warnings_while_nothing_changes(tiny_isic, inspected, caplog):
    images = tiny_isic / IMAGES
    shutil.copy(images / "ISIC_0000000.jpg", images / "ISIC_0000001.jpg")
    _split(tiny_isic)
    warnings = list(caplog.messages)
    assert warnings[0].startswith("identical images: ISIC_0000000.jpg, ISIC_0000001.jpg")
    assert len(inspected) == 42
    caplog.clear()
    _split(tiny_isic, "last:0.3")
    assert caplog.messages == warnings
    assert len(inspected) == 42


def _touch(folder):
    os.utime(folder / IMAGES / "ISIC_0000005.jpg")


def _replace_image(folder):
    shutil.copy(folder / IMAGES / "ISIC_0000003.jpg", folder / IMAGES / "ISIC_0000005.jpg")


def _relabel(folder):
    truth = folder / TRUTH
    rows = [line.split(",") for line in truth.read_text().splitlines()]
    truth.write_text("\n".join(",".join([r[0], *r[:0:-1]]) if r[0] != "image" else ",".join(r) for r in rows))


def _move_lines(folder):
    (folder / TRUTH).write_text((folder / TRUTH).read_text().replace("\n", "\n\n", 1))


def _regroup(folder):
    (folder / GROUPINGS).write_text((folder / GROUPINGS).read_text().replace("L12,", "L11,"))


def _add(folder):
    shutil.copy(folder / IMAGES / "ISIC_0000003.jpg", folder / IMAGES / "ISIC_0000042.jpg")
    for table, row in ((TRUTH, "1,0,0,0,0,0,0"), (GROUPINGS, "L99")):
        (folder / table).write_text(f"{(folder / table).read_text()}ISIC_0000042,{row}\n")


def _remove(folder):
    (folder / IMAGES / "ISIC_0000005.jpg").unlink()
    for table in (TRUTH, GROUPINGS):
        rows = [row for row in (folder / table).read_text().splitlines() if "ISIC_0000005" not in row]
        (folder / table).write_text("\n".join(rows))


def _damage_cache(folder):
    for path in (folder.parent / "cache").rglob("*.json"):
        path.write_text("{")


CHANGES = [_touch, _replace_image, _relabel, _move_lines, _regroup, _add, _remove, _damage_cache]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_causes_another_validation(tiny_isic, inspected, change):
    _split(tiny_isic)
    change(tiny_isic)
    examples = sum(len(side) for side in _split(tiny_isic, "last:0.3"))
    assert len(inspected) == 42 + examples
    [file] = (tiny_isic.parent / "cache").rglob("audits/*")
    assert file.suffix == ".json", "one file per data set, also after changes"


def test_a_folder_with_the_same_relative_name_is_validated_too(tiny_isic, inspected, monkeypatch, tmp_path):
    copy = shutil.copytree(tiny_isic, tmp_path / "elsewhere" / tiny_isic.name)
    for folder in (tiny_isic, copy):
        monkeypatch.chdir(folder.parent)
        _split(folder.name)
    assert len(inspected) == 84


def test_a_full_disk_leaves_no_part_of_a_cached_result(tiny_isic, inspected, monkeypatch):
    calls = []

    def write_five_bytes(self, content):
        calls.append(self)
        with open(self, "wb") as file:
            file.write(content[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", write_five_bytes)
        _split(tiny_isic)
    assert len(calls) == 1
    assert list((tiny_isic.parent / "cache").rglob("audits/*")) == []


def test_data_with_faults_are_validated_each_time(tiny_isic, inspected):
    (tiny_isic / IMAGES / "ISIC_0000005.jpg").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match="is empty"):
            _split(tiny_isic)
    assert len(inspected) == 84


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_isic, inspected, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    _split(tiny_isic)
    _split(tiny_isic)
    assert len(inspected) == 84
