"""`mobilenet-jax predict`: files to a table of probabilities, an image after the other, however many there are."""

import csv
import glob
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

import numpy as np
from tqdm import tqdm

from input_pipeline.image_reader import read_images
from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.grad_cam import make_grad_cam, overlay

SUFFIXES = (".jpg", ".jpeg", ".png")


def find_images(names: Sequence[str]) -> list[str]:
    """The image files that arguments mean: files as they are, folders' JPEGs and PNGs, and patterns, sorted.

    Raises:
        EvaluationError: an argument means none.
    """
    found: list[str] = []
    for name in names:
        is_pattern = glob.has_magic(name) and not os.path.exists(name)
        matches = [
            path
            for match in (sorted(glob.glob(name, recursive=True)) if is_pattern else [name])
            for path in (_images_in(Path(match)) if os.path.isdir(match) else [match])
        ]  # a file that is not there is told of with those that cannot be read
        if not matches:
            raise EvaluationError(f"{name} holds no JPEG or PNG file")
        found += matches
    return list(dict.fromkeys(found))


def _images_in(folder: Path) -> list[str]:
    """Files of the folder and those in it, but for hidden ones, such as macOS leaves beside others (`._NAME.jpg`)."""
    files = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
    return [str(p) for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def print_top_classes(classifier: Classifier, paths: Sequence[str], many: int = 5) -> list[str]:
    """Prints the likeliest classes of files, one file after the other.

    Returns:
        A line for each file that could not be read.
    """
    faults = []
    for batch in read_images(paths, classifier.size, classifier.whole(1)):
        faults += batch.faults
        if not len(batch.positions):
            continue
        probabilities = classifier.probabilities(batch.pixels, 1)
        for position, row in zip(batch.positions, probabilities, strict=True):
            print(paths[position])
            for c in np.argsort(-row, kind="stable")[:many]:
                name = classifier.class_names[c]
                print(f"  {c:>4}  {row[c]:.4f}  {'' if name == str(c) else name}".rstrip())
    return faults


def write_predictions(
    classifier: Classifier,
    paths: Sequence[str],
    out: Path,
    *,
    table_format: Literal["csv", "jsonl"] = "csv",
    batch_size: int = 64,
    explain: Path | None = None,
    explain_class: str | None = None,
) -> list[str]:
    """Classifies files. The table appears under its name when it is whole.

    Args:
        classifier: the model.
        paths: the files.
        out: the table, not written if no file can be read: as the ISIC challenge wants it (`image`, the name without
            its suffix, and a column of probabilities for each class), or a JSON object a line.
        table_format: which of them.
        batch_size: images at once.
        explain: a folder for a picture of each image beside what of it spoke for a class; None draws none.
        explain_class: that class; None for the predicted one.

    Returns:
        A line for each file that could not be read.

    Raises:
        EvaluationError: the table has no place, or two files have a name that the table, or the pictures,
            could not tell apart.
        OSError: the table cannot be written.
    """
    out = Path(os.path.realpath(out))  # where a link leads
    if not out.parent.is_dir():
        raise EvaluationError(f"{out} cannot be written: there is no folder {out.parent}")
    if out.exists() and not out.is_file():
        raise EvaluationError(f"{out} cannot be written: it is a folder, or no file")
    if table_format == "csv" or explain:
        _check_names(paths)
    draw = _drawer(classifier, explain, explain_class) if explain else None
    unfinished, faults = out.with_name(f".{out.name}.unfinished"), []
    with ExitStack() as stack:
        stack.callback(unfinished.unlink, missing_ok=True)
        file = stack.enter_context(open(unfinished, "w", newline="", encoding="utf-8"))
        write = _writer(file, table_format, classifier.class_names)
        bar = stack.enter_context(tqdm(total=len(paths), desc="predicting", unit=" images", disable=None, leave=False))
        for batch in read_images(paths, classifier.size, classifier.whole(batch_size)):
            faults += batch.faults
            if len(batch.positions):
                chosen = [paths[i] for i in batch.positions]
                probabilities = classifier.probabilities(batch.pixels, batch_size)
                write(chosen, probabilities)
                if draw:
                    draw(chosen, batch.pixels, probabilities.argmax(1))
            bar.update(len(batch.positions) + len(batch.faults))
        file.close()
        if len(faults) < len(paths):
            os.replace(unfinished, out)
    return faults


def _check_names(paths: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(Path(path).stem, path)
        if other != path:
            raise EvaluationError(
                f"{other} and {path} have one name, by which they are told apart: rename one, or predict them apart"
            )


def _writer(
    file: IO[str], table_format: Literal["csv", "jsonl"], names: Sequence[str]
) -> Callable[[Sequence[str], np.ndarray], None]:
    table = csv.writer(file, lineterminator="\n")
    if table_format == "csv":
        table.writerow(["image", *names])

    def write(paths: Sequence[str], probabilities: np.ndarray) -> None:
        for path, row in zip(paths, probabilities, strict=True):
            if table_format == "csv":
                table.writerow([Path(path).stem, *(f"{p:.6g}" for p in row)])
            else:
                said = {name: float(f"{p:.6g}") for name, p in zip(names, row, strict=True)}
                line = {"image": path, "predicted": names[int(row.argmax())], "probabilities": said}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _drawer(
    classifier: Classifier, folder: Path, name: str | None
) -> Callable[[Sequence[str], np.ndarray, np.ndarray], None]:
    if name is not None and name not in classifier.class_names:
        raise EvaluationError(f"--explain-class is {name}; the classes are {', '.join(classifier.class_names)}")
    folder.mkdir(parents=True, exist_ok=True)
    grad_cam = make_grad_cam(classifier)

    def draw(paths: Sequence[str], pixels: np.ndarray, predicted: np.ndarray) -> None:
        classes = predicted if name is None else np.full(len(paths), classifier.class_names.index(name))
        for path, image, cam, c in zip(paths, pixels, grad_cam(pixels, classes), classes, strict=True):
            overlay(image, cam).save(folder / f"{Path(path).stem}_{classifier.class_names[c]}.png")

    return draw
