"""Looks at every image before the first step: all that would stop or spoil training later is found now."""

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from input_pipeline.examples import DataError, Examples

MIN_SIDE, MAX_SIDE = 8, 10_000  # pixels
_FEW = 5  # examples of a class
_SHOWN = 20  # of each kind of warning
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class _Look(NamedTuple):
    """What is wrong with a file, what is odd about it, and the hash of its content."""

    fault: str | None
    oddity: str | None
    digest: str


def check_images(examples: Examples) -> None:
    """Decodes every image once, and prints warnings of what is only suspicious.

    JPEGs of any colour space and PNGs under any name are read. What the decoder lets pass, such as a picture whose
    lower half is grey, is not found.

    Raises:
        DataError: images are unreadable, empty, truncated, damaged, of no known format, or of an impossible size. Its
            `details` name each one with its row.
    """
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        bar = tqdm(
            pool.map(_look, examples.paths), "checking images", len(examples), unit=" images", disable=None, leave=False
        )
        looks = list(bar)
    where = [f"{path} ({row})" for path, row in zip(examples.paths, examples.rows, strict=True)]
    faults = [f"{place} {look.fault}" for place, look in zip(where, looks, strict=True) if look.fault]
    if faults:
        first = faults[0] if len(faults) == 1 else f"{len(faults)} images cannot be used, the first is {faults[0]}"
        raise DataError(f"{first}: replace the files, or remove them and their rows", details=faults)
    odd = [f"{place} {look.oddity}" for place, look in zip(where, looks, strict=True) if look.oddity]
    _warn(odd)
    _warn(_identical(examples, looks))
    counts = np.bincount(examples.labels, minlength=len(examples.class_names))
    named = zip(examples.class_names, counts, strict=True)
    _warn([f"class {name} has {n} examples, too few to measure" for name, n in named if n < _FEW])


def _warn(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        print(f"warning: {line}", file=sys.stderr)
    if len(lines) > _SHOWN:
        print(f"warning: and {len(lines) - _SHOWN} more like these", file=sys.stderr)


def _identical(examples: Examples, looks: Sequence[_Look]) -> list[str]:
    """Images of one content under two names, which a split by lesion does not know of if they are of two lesions."""
    same = defaultdict(list)
    for i, look in enumerate(looks):
        same[look.digest].append(i)
    lines = []
    for group in same.values():
        if len(group) > 1:
            names = ", ".join(Path(examples.paths[i]).name for i in group)
            lesions = len({examples.lesions[i] for i in group})
            labels = len({examples.labels[i] for i in group})
            lines.append(f"identical images: {names} ({lesions} lesions, {labels} classes)")
    return lines


def _look(path: str) -> _Look:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return _Look(f"cannot be read ({error.strerror})", None, "")
    digest = hashlib.sha256(data).hexdigest()
    if not data:
        return _Look("is empty", None, digest)
    try:
        with Image.open(BytesIO(data)) as image:  # reads the header only
            width, height = image.size
            kind = image.format
            orientation = image.getexif().get(_ORIENTATION, 1) if kind == "JPEG" else 1
    except Image.DecompressionBombError as error:
        return _Look(f"is too large ({error})", None, digest)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        jpeg = data.startswith(b"\xff\xd8\xff")
        return _Look("is a truncated or damaged JPEG" if jpeg else "is no image", None, digest)
    if kind not in ("JPEG", "PNG"):
        return _Look(f"is a {kind}, not a JPEG or PNG", None, digest)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        return _Look(f"is {width} x {height} pixels, not {MIN_SIDE} to {MAX_SIDE} a side", None, digest)
    try:
        tf.io.decode_jpeg(data, channels=3, ratio=8)  # an eighth of a JPEG's size reads all of it and is quick
    except tf.errors.InvalidArgumentError:
        return _Look(f"is a truncated or damaged {kind}", None, digest)
    if orientation != 1:
        return _Look(None, "is marked as turned (EXIF); it is read as stored", digest)
    if Path(path).is_symlink() and Path(path).parent.resolve() not in Path(path).resolve().parents:
        return _Look(None, f"is a link to {Path(path).resolve()}, outside its folder", digest)
    return _Look(None, None, digest)
