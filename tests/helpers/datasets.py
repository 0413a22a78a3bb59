"""Small data sets in the layouts of the sources."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.examples import Examples
from input_pipeline.sources.isic import CLASS_NAMES, GROUND_TRUTH, GROUPINGS, INPUT

TRUTH_FILE = f"{GROUND_TRUTH}/{GROUND_TRUTH}.csv".replace("{}", "{0}")  # to be formatted with a part, like INPUT


def write_isic(folder: Path, *, one: str = "1.0", zero: str = "0.0") -> Path:
    """Writes a training set in the archive's layout: 42 images of noise, two per lesion, three lesions per class.

    The images are named from ISIC_0000000.jpg on, in the order of the classes; the lesions L00 to L62 by class and
    number. Each class has a color.

    Args:
        folder: the folder to write.
        one: the 1 of the one-hot labels.
        zero: the 0 of the one-hot labels.

    Returns:
        `folder`.
    """
    images, truth = folder / INPUT.format("Training"), folder / TRUTH_FILE.format("Training")
    images.mkdir(parents=True)
    truth.parent.mkdir()
    rng = np.random.default_rng(0)
    rows, groups, number = [["image", *CLASS_NAMES]], [["image", "lesion_id", "diagnosis_confirm_type"]], 0
    for label in range(7):
        color = np.array([40 + 30 * label, 250 - 30 * label, 128])
        for lesion in range(3):
            for _ in range(2):
                name = f"ISIC_{number:07d}"
                pixels = np.clip(color + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(images / f"{name}.jpg")
                rows.append([name, *(one if i == label else zero for i in range(7))])
                groups.append([name, f"L{label}{lesion}", "histopathology"])
                number += 1
    _write_table(truth, rows)
    _write_table(folder / GROUPINGS, groups)
    return folder


def add_official_sets(folder: Path) -> Path:
    """Adds the archive's validation and test sets to those of `write_isic`: the same images under other names."""
    for number, part in enumerate(("Validation", "Test"), start=1):
        for path in sorted(folder.glob("*Training_Input/*.jpg")):
            name = path.name.replace("ISIC_0", f"ISIC_{number}")
            copy = folder / INPUT.format(part) / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        other = folder / TRUTH_FILE.format(part)
        other.parent.mkdir()
        training = folder / TRUTH_FILE.format("Training")
        other.write_text(training.read_text().replace("ISIC_0", f"ISIC_{number}"))
    return folder


def add_small_official_sets(folder: Path) -> Path:
    """Adds validation and test sets of one image per class to those of `write_isic`."""
    for part, first in (("Validation", 1000), ("Test", 2000)):
        images, truth = folder / INPUT.format(part), folder / TRUTH_FILE.format(part)
        images.mkdir()
        truth.parent.mkdir()
        rows = [["image", *CLASS_NAMES]]
        for label in range(7):
            name = f"ISIC_{first + label:07d}"
            shutil.copy(folder / INPUT.format("Training") / f"ISIC_{6 * label:07d}.jpg", images / f"{name}.jpg")
            rows.append([name, *(str(float(i == label)) for i in range(7))])
        _write_table(truth, rows)
    return folder


def write_ham10000(examples: Examples, folder: Path) -> Path:
    """Copies examples to the layout of HAM10000 on Kaggle, alternating between the two image folders."""
    parts = [folder / f"HAM10000_images_part_{i}" for i in (1, 2)]
    for part in parts:
        part.mkdir(parents=True)
    rows = [["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]]
    for i, (path, label, lesion) in enumerate(zip(examples.paths, examples.labels, examples.lesions, strict=True)):
        shutil.copy(path, parts[i % 2])
        rows.append([lesion, Path(path).stem, CLASS_NAMES[label].lower(), "histo", "80.0", "male", "scalp"])
    _write_table(folder / "HAM10000_metadata.csv", rows)
    return folder


def write_csv_table(examples: Examples, file: Path) -> Path:
    """Writes a table of path, label and group that refers to the images where they are."""
    labels = [examples.class_names[label] for label in examples.labels]
    rows = [list(row) for row in zip(examples.paths, labels, examples.lesions, strict=True)]
    _write_table(file, [["path", "label", "group"], *rows])
    return file


def write_photographs(folder: Path, names: Sequence[str], size: tuple[int, int] = (40, 30)) -> Path:
    """Writes images of noise, with other pixels each, in the formats of their suffixes; returns `folder`."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).save(path)
    return folder


def index_by_name(examples: Examples) -> dict[str, tuple[str, str]]:
    """Returns file name -> (class, lesion), which does not depend on the layout."""
    names = [Path(path).name for path in examples.paths]
    labels = [examples.class_names[label] for label in examples.labels]
    return dict(zip(names, zip(labels, examples.lesions.tolist(), strict=True), strict=True))


def _write_table(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
