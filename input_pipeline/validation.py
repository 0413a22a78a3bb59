"""Looks at every image before the first step: all that would stop or spoil training later is found now."""

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults
from input_pipeline.image_files import hash_files, read_image_bytes

MIN_SIDE, MAX_SIDE = 8, 10_000  # pixels
_FEW = 5  # examples of a class
_SHOWN = 20  # of each kind of warning
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_VERSION = 1  # raised when the audit finds other things in the same files, so that all are looked at anew


class _Look(NamedTuple):
    """What is wrong with a file, what is odd about it, and the hash of its content."""

    fault: str | None
    oddity: str | None
    digest: str


def validate_images(examples: Examples, faults: Faults | None = None) -> None:
    """Decodes every image once, and if nothing is wrong prints warnings of what is only suspicious.

    JPEGs of any color space and PNGs under any name are read. What the decoder lets pass, such as a picture whose
    lower half is gray, is not found. While neither files nor table change, what was found is remembered in the user's
    cache and nothing is decoded again.

    Args:
        examples: of which to look at the images.
        faults: where to note images that are unreadable, empty, truncated, damaged, of no known format, or of an
            impossible size, each with its row; None raises them. What it holds already is of rows that were left out.

    Raises:
        DataError: there are such images.
    """
    found = Faults() if faults is None else faults
    memory = _Memory(examples)
    warnings = memory.recall()
    if warnings is None:
        before = len(found)
        warnings = _look_at_all(examples, found)
        if len(found) == before:
            memory.keep(warnings)
    if not found:  # else examples were left out, and what is said of the rest, such as their number, may be wrong
        for line in warnings:
            print(f"warning: {line}", file=sys.stderr)
    if faults is None:
        found.raise_if_any()


class _Memory:
    """The warnings of the last audit of a data set that found no fault, valid while nothing has changed."""

    def __init__(self, examples: Examples):
        paths = [os.path.abspath(path) for path in examples.paths]
        folder = os.path.commonpath(paths) if paths else ""
        name = hashlib.sha256(folder.encode()).hexdigest()[:16]
        self._file = Path(pooch.os_cache("mobilenet-jax")) / "audits" / f"{name}.json"
        self._state: str | None = None
        with suppress(OSError):  # a file is missing: the audit will say so
            table = hashlib.sha256("\n".join([*paths, *examples.rows]).encode()).hexdigest()
            self._state = f"{_VERSION} {hash_files(paths)} {table} {examples.compute_fingerprint()}"

    def recall(self) -> list[str] | None:
        try:
            kept = json.loads(self._file.read_text())
            return kept["warnings"] if kept["state"] == self._state else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, warnings: list[str]) -> None:
        if self._state is None:
            return
        with suppress(OSError):  # a cache that cannot be written costs only time
            self._file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            try:
                unfinished.write_text(json.dumps({"state": self._state, "warnings": warnings}))
                os.replace(unfinished, self._file)
            finally:
                unfinished.unlink(missing_ok=True)


def _look_at_all(examples: Examples, faults: Faults) -> list[str]:
    """The warnings; faults are noted."""
    from input_pipeline.tf_graph import can_decode  # TensorFlow

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looks = pool.map(lambda path: _look(path, can_decode), examples.paths)
        bar = tqdm(looks, "checking images", len(examples), unit=" images", disable=None, leave=False)
        found = list(bar)
    where = [f"{path} ({row})" for path, row in zip(examples.paths, examples.rows, strict=True)]
    mend = "replace it, or remove it and its row"
    faults += [f"{place} {look.fault}: {mend}" for place, look in zip(where, found, strict=True) if look.fault]
    odd = [f"{place} {look.oddity}" for place, look in zip(where, found, strict=True) if look.oddity]
    counts = np.bincount(examples.labels, minlength=len(examples.class_names))
    named = zip(examples.class_names, counts, strict=True)
    few = [f"class {name} has {n} examples, too few to measure" for name, n in named if n < _FEW]
    return [*_shortened(odd), *_shortened(_identical(examples, found)), *few]


def _shortened(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - _SHOWN} more like these"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more


def _identical(examples: Examples, looks: Sequence[_Look]) -> list[str]:
    """Images of one content under two names, which a split by lesion does not know of if they are of two lesions."""
    same = defaultdict(list)
    for i, look in enumerate(looks):
        if not look.fault:
            same[look.digest].append(i)
    lines = []
    for group in same.values():
        if len(group) > 1:
            names = ", ".join(Path(examples.paths[i]).name for i in group)
            lesions = len({examples.lesions[i] for i in group})
            labels = len({examples.labels[i] for i in group})
            lines.append(f"identical images: {names} ({lesions} lesions, {labels} classes)")
    return lines


def _look(path: str, can_decode: Callable[[bytes], bool]) -> _Look:
    if os.path.exists(path) and not os.path.isfile(path):
        return _Look("is a folder or a special file", None, "")  # a pipe would be waited for without end
    try:
        data = read_image_bytes(path)
    except OSError as error:
        return _Look(f"cannot be read ({error.strerror})", None, "")
    except DataError as error:
        return _Look(f"cannot be read ({error})", None, "")
    digest = hashlib.sha256(data).hexdigest()
    if not data:
        return _Look("is empty", None, digest)
    try:
        with Image.open(BytesIO(data)) as image:  # reads the header only
            width, height = image.size
            kind = "JPEG" if image.format == "MPO" else image.format  # of a phone: more pictures follow the first
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
    if not can_decode(data):
        return _Look(f"is a truncated or damaged {kind}", None, digest)
    if orientation != 1:
        return _Look(None, "is marked as turned (EXIF); it is read as stored", digest)
    if Path(path).is_symlink() and Path(path).parent.resolve() not in Path(path).resolve().parents:
        return _Look(None, f"is a link to {Path(path).resolve()}, outside its folder", digest)
    return _Look(None, None, digest)
