"""Classifies image files: finds them, predicts in batches, writes tables and Grad-CAM pictures."""

import contextlib
import csv
import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.atomic_files import replace_atomically
from input_pipeline.image_files import IMAGE_SUFFIXES
from input_pipeline.image_reader import read_images
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.grad_cam import draw_overlay, make_grad_cam

TableFormat = Literal["csv", "jsonl"]


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
        Paths without duplicates, in the order of the arguments; those of a folder or pattern are sorted.

    Raises:
        EvaluationError: an argument stands for no file.
    """
    paths: list[str] = []
    for argument in arguments:
        is_pattern = glob.has_magic(argument) and not os.path.exists(argument)
        matches = sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]
        files = [path for match in matches for path in (_list_images(match) if os.path.isdir(match) else [match])]
        if not files:
            raise EvaluationError(f"{argument} holds no image file")
        paths += files
    return list(dict.fromkeys(paths))


def _list_images(folder: str) -> list[str]:
    """Lists the images in a folder and its subfolders, except hidden files such as `._NAME.jpg` of macOS."""
    files = (p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return [str(p) for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def classify_files(
    classifier: Classifier, paths: Sequence[str] | np.ndarray, batch_size: int, *, progress: bool = True
) -> Iterator[ClassifiedBatch]:
    """Classifies files in batches. Memory does not grow with the number of files.

    Args:
        classifier: the model.
        paths: the files.
        batch_size: files per batch, rounded up to a multiple of the number of devices.
        progress: whether to show a progress bar on a terminal.
    """
    hidden = None if progress else True  # None: shown on a terminal only
    with tqdm(total=len(paths), desc="predicting", unit=" images", disable=hidden, leave=False) as bar:
        for images in read_images(paths, classifier.image_size, classifier.round_up_batch_size(batch_size)):
            if len(images.positions):
                probabilities = classifier.compute_probabilities(images.pixels, batch_size)
            else:
                probabilities = np.zeros((0, len(classifier.class_names)))
            yield ClassifiedBatch([paths[i] for i in images.positions], images.pixels, probabilities, images.faults)
            bar.update(len(images.positions) + len(images.faults))


def write_predictions(
    classifier: Classifier,
    paths: Sequence[str],
    out: Path,
    *,
    table_format: TableFormat = "csv",
    batch_size: int = 64,
    explain: Path | None = None,
    explain_class: str | None = None,
) -> list[str]:
    """Classifies files and writes a table of their probabilities.

    Args:
        classifier: the model.
        paths: the files.
        out: the table. It is not written if no file can be read.
        table_format: `"csv"`, the format of the ISIC challenge: `image`, the file name without its suffix, and one
            column of probabilities per class; or `"jsonl"`, one JSON object per line.
        batch_size: files per batch.
        explain: folder for one Grad-CAM picture per image; None writes none.
        explain_class: the class to explain; None explains the predicted one.

    Returns:
        One line per file that could not be read.

    Raises:
        EvaluationError: `out` cannot be a file, `explain_class` is not a class, or two files share a name that
            identifies them in the table or among the pictures.
        OSError: the table or a picture cannot be written.
    """
    _check_destination(out)
    if table_format == "csv" or explain:
        _check_unique_names(paths)
    draw = _make_explainer(classifier, explain, explain_class) if explain else None
    faults: list[str] = []
    with contextlib.suppress(_NoReadableFile), replace_atomically(out) as unfinished:
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            write = _make_writer(file, table_format, classifier.class_names)
            for batch in classify_files(classifier, paths, batch_size):
                faults += batch.faults
                write(batch)
                if draw and batch.paths:
                    draw(batch)
        if len(faults) == len(paths):
            raise _NoReadableFile
    return faults


class _NoReadableFile(Exception):  # noqa: N818 (not an error of its own: every file has its line in `faults`)
    """Leaves the destination of `replace_atomically` as it was."""


def _check_destination(out: Path) -> None:
    out = Path(os.path.realpath(out))  # the file that a symbolic link leads to is the one to be written
    if not out.parent.is_dir():
        raise EvaluationError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.exists() and not out.is_file():
        raise EvaluationError(f"cannot write {out}: it exists and is not a regular file")


def _check_unique_names(paths: Sequence[str]) -> None:
    path_of: dict[str, str] = {}
    for path in paths:
        other = path_of.setdefault(Path(path).stem, path)
        if other != path:
            raise EvaluationError(
                f"{other} and {path} share a name, which identifies an image: rename one, or predict them separately"
            )


def _make_writer(
    file: IO[str], table_format: TableFormat, class_names: Sequence[str]
) -> Callable[[ClassifiedBatch], None]:
    """Writes the header of the table. Returns a function that appends the rows of a batch."""
    table = csv.writer(file, lineterminator="\n")
    if table_format == "csv":
        table.writerow(["image", *class_names])

    def write(batch: ClassifiedBatch) -> None:
        for path, row in zip(batch.paths, batch.probabilities, strict=True):
            if table_format == "csv":
                table.writerow([Path(path).stem, *(f"{p:.6g}" for p in row)])
            else:
                probabilities = {name: float(f"{p:.6g}") for name, p in zip(class_names, row, strict=True)}
                line = {"image": path, "predicted": class_names[int(row.argmax())], "probabilities": probabilities}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _make_explainer(classifier: Classifier, folder: Path, class_name: str | None) -> Callable[[ClassifiedBatch], None]:
    """Creates the folder. Returns a function that writes one picture per image of a batch to it."""
    names = classifier.class_names
    if class_name is not None and class_name not in names:
        raise EvaluationError(f"--explain-class is {class_name}, which is not one of the classes {', '.join(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    compute_maps = make_grad_cam(classifier)

    def draw(batch: ClassifiedBatch) -> None:
        predicted = batch.probabilities.argmax(1)
        classes = predicted if class_name is None else np.full_like(predicted, names.index(class_name))
        maps = compute_maps(batch.pixels, classes)
        for path, image, cam, label in zip(batch.paths, batch.pixels, maps, classes, strict=True):
            with replace_atomically(folder / f"{Path(path).stem}_{names[label]}.png") as unfinished:
                draw_overlay(image, cam).save(unfinished)

    return draw
