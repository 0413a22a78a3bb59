"""Validates every image before the first step, so that no fault can interrupt or corrupt training later."""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.atomic_files import write_atomically
from input_pipeline.errors import DataError, shorten
from input_pipeline.examples import Examples, Faults, collect_faults
from input_pipeline.image_files import hash_files, read_image_bytes
from input_pipeline.image_ops import (
    FAST_FORMATS,
    FORMATS,
    decode_with_pillow,
    describe_limit,
    describe_unreadable,
    is_deep_png,
    is_marked_as_rotated,
)
from input_pipeline.resources import count_cpus
from input_pipeline.user_cache import get_cache_folder

MIN_SIDE, MAX_SIDE = 8, 10_000  # pixels
_FEW_EXAMPLES = 5  # a class with fewer is reported
_MAX_NAMES = 5  # the number of identical images that are named
_VERSION = 5  # raised when the same files give other results, so that all data sets are validated again

_logger = logging.getLogger(__name__)


class _Inspection(NamedTuple):
    """The result for one file: a fault that prevents its use, a warning, the hash of its content, and its EXIF."""

    fault: str | None
    warning: str | None
    digest: str
    is_rotated: bool = False


def validate_images(examples: Examples, faults: Faults | None = None) -> None:
    """Decodes every image once; if there are no faults, logs warnings about suspicious images.

    The formats of `image_ops.FORMATS` are accepted, regardless of file names, and JPEGs of any color space. Damage that
    the decoder accepts, such as an image whose lower half is gray, is not detected. As long as neither files nor table
    change, the result is remembered in the user's cache, and nothing is decoded again.

    Args:
        examples: the examples whose images are validated.
        faults: the list to add the images to, with their rows, that are unreadable, empty, truncated, damaged, of an
            unsupported format or of an unsupported size; None raises them. Faults that the list already holds belong
            to rows that were left out.

    Raises:
        DataError: `faults` is None, and there are such images.
    """
    with collect_faults(faults) as collected:
        image_faults, warnings = _validate(examples)
        collected += image_faults.values()
        if not collected:  # if examples were left out, warnings about the rest, such as class sizes, can be wrong
            for line in warnings:
                _logger.warning("%s", line)


def drop_damaged_images(examples: Examples) -> Examples:
    """Decodes every image once, and returns the examples whose images have no fault; logs the others, and warnings.

    Args:
        examples: the examples whose images are validated. The result is remembered only if there are no faults.

    Raises:
        DataError: all images have faults.
    """
    faults, warnings = _validate(examples)
    if len(faults) == len(examples):
        Faults(faults.values()).raise_if_any()
    if faults:
        _logger.warning("leaving out %d of %d images, which cannot be read:", len(faults), len(examples))
    for line in [*faults.values(), *warnings]:
        _logger.warning("%s", line)
    return examples.take(np.array([i for i in range(len(examples)) if i not in faults], np.int64))


def _validate(examples: Examples) -> tuple[dict[int, str], list[str]]:
    """Returns the faults of images by their position, and the warnings about the images without faults."""
    cache = _ValidationCache(examples)
    if (cached := cache.load()) is not None:
        return {}, cached
    inspections = _inspect_images(examples)
    intact = [i for i, inspection in enumerate(inspections) if not inspection.fault]
    warnings = _list_warnings(examples.take(np.array(intact, np.int64)), [inspections[i] for i in intact])
    if len(intact) == len(examples):
        cache.save(warnings)
    return _list_faults(examples, inspections), warnings


class _ValidationCache:
    """The warnings of the last validation of a data set without faults; valid as long as nothing changes."""

    def __init__(self, examples: Examples):
        paths = [os.path.abspath(path) for path in examples.paths]
        folder = ""
        with suppress(ValueError):  # no files, or on several drives of Windows
            folder = os.path.commonpath(paths)
        name = hashlib.sha256(folder.encode()).hexdigest()[:16]
        # The folder keeps its earlier name, so that the results of earlier versions stay valid.
        self._file = get_cache_folder("audits") / f"{name}.json"
        self._state: str | None = None
        with suppress(OSError):  # a file is missing, which the validation reports
            table = hashlib.sha256("\n".join([*paths, *examples.rows]).encode()).hexdigest()
            self._state = f"{_VERSION} {hash_files(paths)} {table} {examples.compute_fingerprint()}"

    def load(self) -> list[str] | None:
        """Returns the warnings, or None if something has changed."""
        try:
            cached = json.loads(self._file.read_text())
            return cached["warnings"] if cached["state"] == self._state else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, warnings: list[str]) -> None:
        """Writes the warnings of a data set without faults."""
        if self._state is None:
            return
        with suppress(OSError):  # a cache that cannot be written costs only time
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps({"state": self._state, "warnings": warnings}))


def _inspect_images(examples: Examples) -> list[_Inspection]:
    from input_pipeline.tf_graph import can_decode  # imports TensorFlow, which a cached result does not need

    with ThreadPoolExecutor(count_cpus()) as pool:
        inspections = pool.map(lambda path: _inspect_image(path, can_decode), examples.paths)
        bar = tqdm(inspections, "validating images", len(examples), unit=" images", disable=None, leave=False)
        return list(bar)


def _list_faults(examples: Examples, inspections: Sequence[_Inspection]) -> dict[int, str]:
    return {
        i: f"{path} ({row}) {inspection.fault}: replace it, or remove it and its row, if any"
        for i, (path, row, inspection) in enumerate(zip(examples.paths, examples.rows, inspections, strict=True))
        if inspection.fault
    }


def _list_warnings(examples: Examples, inspections: Sequence[_Inspection]) -> list[str]:
    suspicious = [
        f"{path} ({row}) {inspection.warning}"
        for path, row, inspection in zip(examples.paths, examples.rows, inspections, strict=True)
        if inspection.warning
    ]
    rotated = [path for path, inspection in zip(examples.paths, inspections, strict=True) if inspection.is_rotated]
    orientation = [
        f"{len(rotated)} of {len(examples)} images, such as {path}, are marked as rotated (EXIF) and are read as "
        "stored; if the upright position matters, rotate their pixels (PIL.ImageOps.exif_transpose)"
        for path in rotated[:1]
    ]
    counts = np.bincount(examples.labels, minlength=len(examples.class_names))
    small_classes = [
        f"class {name} has {n} examples, too few to measure"
        for name, n in zip(examples.class_names, counts, strict=True)
        if n < _FEW_EXAMPLES
    ]
    return [*orientation, *shorten(suspicious), *shorten(_list_identical(examples, inspections)), *small_classes]


def _list_identical(examples: Examples, inspections: Sequence[_Inspection]) -> list[str]:
    """Returns a warning for each content with several names; a split by lesion can separate them if lesions differ."""
    groups = defaultdict(list)
    for i, inspection in enumerate(inspections):
        groups[inspection.digest].append(i)
    names = examples.names if examples.relative_paths is not None else [Path(path).name for path in examples.paths]
    lines: list[str] = []
    contradictions: list[str] = []
    copies = 0  # counts images whose copies are not known to show the same lesion
    for group in groups.values():
        if len(group) == 1:
            continue
        more = f" and {len(group) - _MAX_NAMES} more" if len(group) > _MAX_NAMES else ""
        images = ", ".join(names[i] for i in group[:_MAX_NAMES]) + more
        if len({examples.lesions[i] for i in group}) > 1:
            copies += len(group)
        if len({examples.labels[i] for i in group}) > 1:
            contradictions.append(f"identical images in different classes: {images}")
        else:
            lines.append(f"identical images: {images}")
    summary = (
        f"{copies} images have copies that a split can separate from them, so that validation metrics are optimistic: "
        "remove the copies, or give them the same lesion or group"
    )
    return [*([summary] if copies else []), *contradictions, *lines]


def _inspect_image(path: str, can_decode: Callable[[bytes], bool]) -> _Inspection:
    digest = ""
    try:
        data = _read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        is_rotated = _check_content(data, can_decode)
    except DataError as fault:
        return _Inspection(str(fault), None, digest)
    warning, link = None, Path(path)
    if link.is_symlink() and link.parent.resolve() not in link.resolve().parents:
        warning = f"is a link to {link.resolve()}, outside its folder"
    return _Inspection(None, warning, digest, is_rotated)


def _read_bytes(path: str) -> bytes:
    """Reads a file; its faults are raised as a DataError without the path."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError("is a folder or a special file")  # reading from a pipe would never end
    try:
        data = read_image_bytes(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except DataError as error:
        raise DataError(f"cannot be read ({error})") from error
    return data


def _check_content(data: bytes, can_decode: Callable[[bytes], bool]) -> bool:
    """Checks that an image can be decoded, and returns whether it is marked as rotated.

    Faults are raised as a DataError without the path.
    """
    try:
        with Image.open(BytesIO(data)) as image:  # reads the header only
            width, height = image.size
            # MPO is the format of phones: further images follow the first one.
            image_format = "JPEG" if image.format == "MPO" else image.format
            is_rotated = is_marked_as_rotated(image)
    except Image.DecompressionBombError as error:
        raise DataError(f"is too large: {describe_limit()}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises almost any type for damaged headers
        raise DataError(describe_unreadable(data)) from error
    if image_format not in FORMATS:
        raise DataError(f"has the format {image_format}, not one of {', '.join(FORMATS)}")
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise DataError(f"is {width} x {height} pixels, not {MIN_SIDE} to {MAX_SIDE} per side")
    if is_deep_png(data):
        raise DataError("has 16 bits per channel, which cannot be read (convert it to 8 bits)")
    if image_format not in FAST_FORMATS:
        try:
            decode_with_pillow(data)
        except DataError as error:
            raise DataError(f"cannot be decoded ({error})") from error
    elif not can_decode(data):
        raise DataError(f"is a truncated or damaged {image_format}")
    return is_rotated
