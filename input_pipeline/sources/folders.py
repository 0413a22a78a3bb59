"""Reads one folder per class, as the article arranged its images, and writes such folders from any other source.

    DIR/Train/MEL/ISIC_0024310.jpg ...     or DIR/MEL/ISIC_0024310.jpg ...
    DIR/lesions.csv                        optional: image, lesion_id

The classes are the names of the folders in alphabetical order. Without `lesions.csv` each image counts as a lesion of
its own.
"""

import csv
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, collect_faults
from input_pipeline.image_files import is_address, read_record
from input_pipeline.sources.tables import read_lesions

_SUFFIXES = (".jpg", ".jpeg")
_LESIONS = "lesions.csv"


def read_folders(folder: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the names of class folders and of the images in them.

    Args:
        folder: the folder above.
        faults: the list to add faulty files and rows to, which are then left out; None raises them.

    Raises:
        DataError: there are no class folders, one of them is empty, or one holds something other than JPEG files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (--config.data.dir names the one that holds class folders)")
    top = folder / "Train" if (folder / "Train").is_dir() else folder
    classes = sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"{top} holds {len(classes)} class folders, expected two or more, such as {top}/MEL")
    with collect_faults(faults) as collected:
        images = [(path, label) for label, name in enumerate(classes) for path in _list_images(top / name, collected)]
        collected += _find_repeated_names(top, [path for path, _ in images])
        table = folder / _LESIONS
        lesions = {path.stem: path.stem for path, _ in images}
        if table.exists():
            lesions = read_lesions(table, collected)
            missing = [path for path, _ in images if path.stem not in lesions]
            collected += [f"{path} has no row in {table}: add one, splits by lesion require it" for path in missing]
            images = [(path, label) for path, label in images if lesions.get(path.stem)]
        examples = Examples(
            paths=np.array([str(path) for path, _ in images]),
            labels=np.array([label for _, label in images], np.int32),
            lesions=np.array([lesions[path.stem] for path, _ in images]),
            rows=np.array([f"{path.parent.name}/{path.name}" for path, _ in images]),
            class_names=tuple(classes),
        )
        if table.exists():
            collected += examples.find_mixed_lesions()
    return examples


def _list_images(folder: Path, faults: Faults) -> list[Path]:
    """Returns the JPEG files of a class folder, sorted by name."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        faults.append(f"{folder} is empty: add its images or remove it")
    images = []
    for path in paths:
        if path.is_dir():
            faults.append(f"{path} is a folder: remove it from the class folder")
        elif path.suffix.lower() not in _SUFFIXES:
            faults.append(f"{path} is not a .jpg or .jpeg file: remove it from the class folder")
        else:
            images.append(path)
    return images


def _find_repeated_names(top: Path, paths: list[Path]) -> list[str]:
    """Returns one fault for each image name that occurs more than once."""
    groups = defaultdict(list)
    for path in paths:
        groups[path.stem].append(f"{path.parent.name}/{path.name}")
    return [
        f"{top} holds {len(files)} images named {name} ({', '.join(files)}): give each a name of its own"
        for name, files in groups.items()
        if len(files) > 1
    ]


def write_folders(examples: Examples, folder: str | Path) -> None:
    """Copies images to `FOLDER/Train/CLASS/` and writes `lesions.csv`: the article's first step.

    The folder has a temporary name until it is complete. The name is fixed, unlike those of `atomic_files`, because an
    interrupted copy of many gigabytes must find its files and resume. A class without images gets no folder.

    Raises:
        DataError: `folder` exists.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: choose another name, or remove it")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    targets = {
        unfinished / "Train" / examples.class_names[label] / Path(path).name: path
        for path, label in zip(examples.paths, examples.labels, strict=True)
    }
    _remove_other_files(unfinished, targets)
    for class_folder in {target.parent for target in targets}:
        class_folder.mkdir(parents=True, exist_ok=True)
    for target, path in tqdm(targets.items(), "copying", unit=" images", disable=None, leave=False):
        if is_address(path):
            target.write_bytes(read_record(path))
        elif not target.exists() or target.stat().st_size != os.path.getsize(path):
            shutil.copyfile(path, target)
    with open(unfinished / _LESIONS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "lesion_id"))
        writer.writerows(
            (Path(path).stem, lesion) for path, lesion in zip(examples.paths, examples.lesions, strict=True)
        )
    os.replace(unfinished, folder)


def _remove_other_files(unfinished: Path, targets: Mapping[Path, str]) -> None:
    """Removes files and class folders that an interrupted copy of another data set left."""
    for class_folder in set(unfinished.glob("Train/*")) - {target.parent for target in targets}:
        shutil.rmtree(class_folder)
    for path in set(unfinished.glob("Train/*/*")) - set(targets):
        path.unlink()
