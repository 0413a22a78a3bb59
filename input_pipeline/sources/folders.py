"""Reads a folder a class, as the article arranged its images, and makes such folders from any other source.

    DIR/Train/MEL/ISIC_0024310.jpg ...     or DIR/MEL/ISIC_0024310.jpg ...
    DIR/lesions.csv                        optional: image, lesion_id

The classes are the folders' names in order. Without `lesions.csv` every image is taken for a lesion of its own.
"""

import csv
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults
from input_pipeline.image_files import is_address, read_record
from input_pipeline.sources.isic import note_mixed_lesions, read_lesions

_SUFFIXES = (".jpg", ".jpeg")
_LESIONS = "lesions.csv"


def read_folders(folder: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the names of class folders and of the images in them.

    Args:
        folder: the folder above.
        faults: where to note what is wrong with files and rows, which are then left out; None raises it.

    Raises:
        DataError: there are no such folders, a folder is empty, or something in one is no JPEG by its name.
    """
    noted = Faults() if faults is None else faults
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no such data folder: {folder} (--config.data.dir names the one that holds class folders)")
    top = folder / "Train" if (folder / "Train").is_dir() else folder
    classes = sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"{top} holds {len(classes)} class folders; there are to be two or more, such as {top}/MEL")
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        files = sorted(path for path in (top / name).iterdir() if not path.name.startswith("."))
        if not files:
            noted.append(f"{top / name} is empty: add its images or remove it")
        for path in files:
            if path.suffix.lower() in _SUFFIXES and not path.is_dir():
                found.append((path, label))
            else:
                what = "a folder" if path.is_dir() else "no JPEG by its name"
                noted.append(f"{path} is {what}: remove it from the class folder")
    same_name = defaultdict(list)
    for path, _ in found:
        same_name[path.stem].append(f"{path.parent.name}/{path.name}")
    for name, where in same_name.items():
        if len(where) > 1:
            noted.append(
                f"{top} holds {len(where)} images of the name {name} ({', '.join(where)}): give each a name of its own"
            )
    lesions = {name: name for name in same_name}
    grouped = (folder / _LESIONS).exists()
    if grouped:
        lesions = read_lesions(folder / _LESIONS, noted)
        missing = [path for path, _ in found if path.stem not in lesions]
        noted += [f"{path} has no row in {folder / _LESIONS}: add one, a split by lesion needs it" for path in missing]
        found = [(path, label) for path, label in found if lesions.get(path.stem)]
    examples = Examples(
        paths=np.array([str(path) for path, _ in found]),
        labels=np.array([label for _, label in found], np.int32),
        lesions=np.array([lesions[path.stem] for path, _ in found]),
        rows=np.array([f"{path.parent.name}/{path.name}" for path, _ in found]),
        class_names=tuple(classes),
    )
    if grouped:
        note_mixed_lesions(examples, noted)
    if faults is None:
        noted.raise_if_any()
    return examples


def write_folders(examples: Examples, folder: str | Path) -> None:
    """Copies images into `FOLDER/Train/CLASS/` and writes `lesions.csv`: the article's first step.

    Until it is whole the folder has another name, and a copy that was stopped goes on where it was. A class without an
    image gets no folder.

    Raises:
        DataError: there is something under that name.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: choose another name, or remove it")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    targets = {
        unfinished / "Train" / examples.class_names[label] / Path(path).name: path
        for path, label in zip(examples.paths, examples.labels, strict=True)
    }
    classes = {target.parent for target in targets}
    for left in set(unfinished.glob("Train/*")) - classes:  # by a copy from elsewhere
        shutil.rmtree(left)
    for left in set(unfinished.glob("Train/*/*")) - set(targets):
        left.unlink()
    for folder_of_class in classes:
        folder_of_class.mkdir(parents=True, exist_ok=True)
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
