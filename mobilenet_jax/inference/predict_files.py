"""Classifies image files: finds them, predicts in batches, writes tables and Grad-CAM pictures."""

import contextlib
import csv
import glob
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from input_pipeline.atomic_files import remove_leftovers, replace_atomically
from input_pipeline.csv_cells import escape_formula
from input_pipeline.image_files import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, is_clutter
from input_pipeline.image_reader import read_images
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.inference.classifier import Classifier

TableFormat = Literal["csv", "isic", "jsonl"]
Consumer = Callable[["ClassifiedBatch"], None]

_logger = logging.getLogger(__name__)

_EXPLAINER = "mobilenet-jax predict --explain"  # the keyword Software of its pictures
_MAX_NAME = 60  # bytes of a class name in a file name, whose limit is 255 bytes on most systems


class ClassifiedBatch(NamedTuple):
    """Predictions for one batch of files.

    Attributes:
        paths: `[n]`, the files that could be read, in the order given.
        pixels: uint8 `[n, height, width, 3]`.
        probabilities: float64 `[n, classes]`.
        faults: one line per file that could not be read, which names the file.
    """

    paths: list[str]
    pixels: np.ndarray
    probabilities: np.ndarray
    faults: list[str]


def find_images(arguments: Sequence[str]) -> list[str]:
    """Finds the image files that command-line arguments stand for.

    Args:
        arguments: files, which need not exist: the reader reports those that cannot be read; folders, which stand for
            the image files in them; and glob patterns.

    Returns:
        Paths to different files, in the order of the arguments; those of a folder or pattern are sorted.

    Raises:
        EvaluationError: an argument stands for no file, or is empty, or a folder cannot be read.
    """
    paths: list[str] = []
    for argument in arguments:
        if not argument:
            raise EvaluationError("an argument is empty: specify files or folders")
        is_pattern = _is_pattern(argument)
        matches = sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]
        files = [path for match in matches for path in (_list_images(match) if os.path.isdir(match) else [match])]
        if not files:
            raise EvaluationError(
                f"no image file matches {argument}" if is_pattern else f"{argument} holds no image file"
            )
        paths += files
    unique: dict[str, str] = {}
    for path in paths:
        unique.setdefault(os.path.abspath(path), path)
    return list(unique.values())


def _is_pattern(argument: str) -> bool:
    return glob.has_magic(argument) and not os.path.exists(argument)


def find_root(arguments: Sequence[str]) -> str:
    """Returns the deepest folder that holds all arguments of `find_images`: the names of images are relative to it.

    A folder holds itself. The root depends on the arguments only, not on the images in a folder.

    Raises:
        EvaluationError: there is no such folder, because the arguments are on different drives of Windows.
    """
    folders = []
    for argument in arguments:
        is_pattern = _is_pattern(argument)
        path = Path(argument)
        while is_pattern and glob.has_magic(str(path)):
            path = path.parent
        path = Path(os.path.abspath(path))
        folders.append(str(path if is_pattern or path.is_dir() else path.parent))
    try:
        return os.path.commonpath(folders)
    except ValueError as error:
        raise EvaluationError("the images are on different drives: predict those of each drive separately") from error


def name_image(path: str, root: str) -> str:
    """Returns the path of an image relative to a folder, with `/` on every system."""
    return Path(os.path.relpath(path, root)).as_posix()


def _list_images(folder: str) -> list[str]:
    """Lists the images in a folder and its subfolders, also linked ones, without those of `image_files.is_clutter`.

    Images in formats that cannot be read are warned of.
    """
    files = sorted(_walk_files(folder))
    images = [str(p) for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    unsupported = [p for p in files if p.suffix.lower() in UNSUPPORTED_SUFFIXES]
    if unsupported:
        _logger.warning(
            "leaving out %d of %d images, whose formats cannot be read; convert them to JPEG or PNG, such as %s",
            len(unsupported),
            len(images) + len(unsupported),
            unsupported[0],
        )
    return images


def _walk_files(folder: str) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders; each folder once, by its own name rather than by that of a link.

    Links can form a cycle. Those to missing files are yielded too, pipes and devices are not.

    Raises:
        EvaluationError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise EvaluationError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    visited: set[str] = set()
    pending = [folder]  # links come last
    for start in pending:
        for top, folders, files in os.walk(start, onerror=refuse):
            real = os.path.realpath(top)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not is_clutter(name))
            pending += [path for name in folders if os.path.islink(path := os.path.join(top, name))]
            paths = [Path(top, name) for name in files if not is_clutter(name)]
            yield from (path for path in paths if path.is_file() or path.is_symlink())


def classify_files(
    classifier: Classifier, paths: Sequence[str] | np.ndarray, batch_size: int, *, progress: bool = True
) -> Iterator[ClassifiedBatch]:
    """Classifies files in batches. Memory does not grow with the number of files.

    Images that viewers rotate are classified as stored, and warned of after the last batch.

    Args:
        classifier: the model.
        paths: the files.
        batch_size: files per batch, at most; rounded up to a multiple of the number of devices.
        progress: whether to show a progress bar on a terminal.
    """
    hidden = None if progress else True  # None: shown on a terminal only
    rotated, last_rotated = 0, ""
    with tqdm(total=len(paths), desc="predicting", unit=" images", disable=hidden, leave=False) as bar:
        rounded = classifier.round_up_batch_size(min(batch_size, len(paths)))
        for images in read_images(paths, classifier.image_size, rounded, classifier.preprocessing):
            if len(images.positions):
                probabilities = classifier.compute_probabilities(images.pixels, rounded)
            else:
                probabilities = np.zeros((0, len(classifier.class_names)))
            yield ClassifiedBatch([paths[i] for i in images.positions], images.pixels, probabilities, images.faults)
            bar.update(len(images.positions) + len(images.faults))
            for i in images.positions[images.is_rotated]:
                rotated, last_rotated = rotated + 1, paths[i]
    if rotated:
        _logger.warning(
            "%d of %d images, such as %s, are marked as rotated (EXIF) and were classified as stored, as in training; "
            "for predictions of the images as displayed, rotate their pixels",
            rotated,
            len(paths),
            last_rotated,
        )


def write_predictions(
    classifier: Classifier,
    paths: Sequence[str],
    out: Path,
    *,
    table_format: TableFormat = "csv",
    root: str | None = None,
    batch_size: int = 64,
    explain: Consumer | None = None,
) -> list[str]:
    """Classifies files and writes a table of their probabilities.

    Args:
        classifier: the model.
        paths: the files.
        out: the table. It is not written if no file can be read.
        table_format: `"csv"`: `image`, the path relative to `root`, `predicted`, and one column of probabilities per
            class. `"isic"`, the format of the ISIC challenge: `image`, the file name without its suffix, and one column
            of probabilities per class. `"jsonl"`: one JSON object per line, with `image`, the path as given,
            `predicted`, and `probabilities` by class. In the first two, names that a spreadsheet would run as a formula
            begin with an apostrophe, see `input_pipeline/csv_cells.py`.
        root: the folder that images are named relative to; None for the deepest one that holds all files.
        batch_size: files per batch.
        explain: see `make_explainer`; None draws no pictures.

    Returns:
        One line per file that could not be read.

    Raises:
        EvaluationError: `out` cannot be a file, or two files share the name that identifies them in an ISIC table.
        OSError: the table or a picture cannot be written.
    """
    _check_destination(out)
    remove_leftovers(Path(os.path.realpath(out)).parent)
    root = find_root(paths) if root is None else root
    if table_format == "isic":
        check_unique_names(paths, [Path(path).stem for path in paths])
    faults: list[str] = []
    with contextlib.suppress(_NoReadableFile), replace_atomically(out) as unfinished:
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            write = _make_writer(file, table_format, classifier.class_names, root)
            for batch in classify_files(classifier, paths, batch_size):
                faults += batch.faults
                write(batch)
                if explain:
                    explain(batch)
        if len(faults) == len(paths):
            raise _NoReadableFile
    return faults


class _NoReadableFile(Exception):  # noqa: N818 (not an error of its own: every file has its line in `faults`)
    """Leaves the destination of `replace_atomically` as it was."""


def _check_destination(out: Path) -> None:
    if out.exists() and not out.is_file():
        raise EvaluationError(f"cannot write {out}: it exists and is not a regular file")
    out = Path(os.path.realpath(out))  # the file that a symbolic link leads to is the one to be written
    if not out.parent.is_dir():
        raise EvaluationError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.suffix.lower() in (*IMAGE_SUFFIXES, *UNSUPPORTED_SUFFIXES):  # as of `--out DIR/*.jpg`
        raise EvaluationError(f"cannot write {out}: this is the name of an image, not of a table")


def check_unique_names(paths: Sequence[str], names: Sequence[str]) -> None:
    """Checks that no two files have the same name.

    Raises:
        EvaluationError: two files do.
    """
    path_of: dict[str, str] = {}
    for path, name in zip(paths, names, strict=True):
        other = path_of.setdefault(name, path)
        if other != path:
            raise EvaluationError(
                f"{other} and {path} share a name, which identifies an image: rename one, or predict them separately"
            )


def _make_writer(file: IO[str], table_format: TableFormat, class_names: Sequence[str], root: str) -> Consumer:
    """Writes the header of the table. Returns a function that appends the rows of a batch."""
    table, cells = csv.writer(file, lineterminator="\n"), list(map(escape_formula, class_names))
    if table_format == "csv":
        table.writerow(["image", "predicted", *cells])
    elif table_format == "isic":
        table.writerow(["image", *cells])

    def write(batch: ClassifiedBatch) -> None:
        for path, row in zip(batch.paths, batch.probabilities, strict=True):
            predicted, probabilities = int(row.argmax()), [f"{p:.6g}" for p in row]
            if table_format == "csv":
                table.writerow([escape_formula(name_image(path, root)), cells[predicted], *probabilities])
            elif table_format == "isic":
                table.writerow([escape_formula(Path(path).stem), *probabilities])
            else:
                by_class = dict(zip(class_names, map(float, probabilities), strict=True))
                line = {"image": path, "predicted": class_names[predicted], "probabilities": by_class}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _make_file_name(class_name: str) -> str:
    """Returns a class name as a part of a file name, on every system: weights of others can name a class `../x`.

    It has no dot, so that the last two dots of `IMAGE.CLASS.png` separate the names of all images and classes.
    """
    return re.sub(r"[^\w+-]", "_", class_name).encode()[:_MAX_NAME].decode(errors="ignore")


def leave_out_pictures(paths: Sequence[str], folder: Path, class_names: Sequence[str]) -> list[str]:
    """Returns the paths without the pictures that an explainer wrote to `folder` before, which are warned of.

    Raises:
        EvaluationError: all of them are such pictures.
    """
    ends, top = tuple(f".{_make_file_name(name)}.png" for name in class_names), folder.resolve()
    kept = [
        path
        for path in paths
        if not (path.endswith(ends) and Path(path).resolve().is_relative_to(top) and _is_explanation(Path(path)))
    ]
    if not kept:
        raise EvaluationError(f"all images are pictures that --explain wrote to {folder}")
    if len(kept) < len(paths):
        _logger.warning("leaving out %d pictures that --explain wrote to %s", len(paths) - len(kept), folder)
    return kept


def _is_explanation(path: Path) -> bool:
    """Returns whether a file is a picture that an explainer wrote."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _EXPLAINER
    except (OSError, ValueError, SyntaxError):  # not an image, or a damaged one
        return False


def make_explainer(
    classifier: Classifier,
    paths: Sequence[str],
    folder: Path,
    *,
    root: str | None = None,
    class_name: str | None = None,
) -> Consumer:
    """Returns a function that writes one Grad-CAM picture per image of a batch.

    Args:
        classifier: the model.
        paths: all files that will be explained.
        folder: the folder of the pictures, which have the same subfolders in it as the images have in `root`.
        root: see `write_predictions`.
        class_name: the class to explain; None explains the predicted one.

    Raises:
        EvaluationError: `class_name` is not a class, `folder` is a file, or two images in one folder differ only in
            their suffix. The returned function raises one if it would replace a file that no explainer wrote.
    """
    from mobilenet_jax.inference import grad_cam  # imports Matplotlib, which predictions do not need

    names = classifier.class_names
    if class_name is not None and class_name not in names:
        raise EvaluationError(f"--explain-class is {class_name}, which is not one of the classes {', '.join(names)}")
    if os.path.lexists(folder) and not folder.is_dir():
        raise EvaluationError(f"--explain names {folder}, which is not a folder: choose another name")
    root = find_root(paths) if root is None else root
    stem_of = {path: folder / Path(name_image(path, root)).with_suffix("") for path in paths}
    check_unique_names(paths, list(map(str, stem_of.values())))
    compute_maps = grad_cam.make_grad_cam(classifier)
    mark = PngInfo()
    mark.add_text("Software", _EXPLAINER)

    def explain(batch: ClassifiedBatch) -> None:
        if not batch.paths:
            return
        predicted = batch.probabilities.argmax(1)
        classes = predicted if class_name is None else np.full_like(predicted, names.index(class_name))
        maps = compute_maps(batch.pixels, classes)
        for i, path in enumerate(batch.paths):
            row, label, best = batch.probabilities[i], classes[i], predicted[i]
            title = grad_cam.format_explanation(names[label], row[label], names[best], row[best])
            picture = stem_of[path].with_name(f"{stem_of[path].name}.{_make_file_name(names[label])}.png")
            if os.path.lexists(picture) and not _is_explanation(picture):
                raise EvaluationError(f"{picture} would be replaced by an explanation: choose another --explain")
            picture.parent.mkdir(parents=True, exist_ok=True)
            with replace_atomically(picture) as unfinished:
                grad_cam.draw_explanation(batch.pixels[i], maps[i], title).save(unfinished, pnginfo=mark)

    return explain
