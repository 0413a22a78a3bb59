"""Reads one folder per class, as the article arranged its images, and writes such folders from any other source.

    DIR/Train/MEL/ISIC_0024310.jpg ...     or DIR/MEL/ISIC_0024310.jpg ...
    DIR/val/MEL/ISIC_0024311.jpg ...       optional, beside the training folder
    DIR/lesions.csv                        optional: image, lesion_id

`Train` may also be `training`, and `val` may be `valid`, `validation`, `test` or `testing`, all in any case and with
`_set` or without. The classes are the names of the training folders in alphabetical order. Without `lesions.csv`,
lesions are unknown.
"""

import csv
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.atomic_files import flush_to_disk
from input_pipeline.csv_cells import escape_formula
from input_pipeline.errors import DataError
from input_pipeline.examples import Examples, Faults, collect_faults, match_names, name_by_path, normalize_name
from input_pipeline.image_files import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, is_address, is_clutter, read_record
from input_pipeline.sources.tables import read_lesions
from input_pipeline.splits import SUBSETS

_LESIONS = "lesions.csv"

# The folders that hold class folders, in any case and with `_set` or without. A test folder is the validation folder if
# there is no other.
_TRAINING = ("train", "training")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test", "testing")
_WRITTEN_NAMES = {"training": "Train", "validation": "Validation"}

_logger = logging.getLogger(__name__)


class _Layout(NamedTuple):
    """The folders that hold class folders; without a validation folder, the images are not split yet."""

    training: Path
    validation: Path | None


class _Image(NamedTuple):
    path: Path
    label: int
    subset: str


def read_folders(folder: str | Path, faults: Faults | None = None) -> Examples:
    """Reads the names of class folders and of the images in them.

    Args:
        folder: the folder above.
        faults: the list to add faulty files and rows to, which are then left out; None raises them.

    Returns:
        The examples by class and file name, those of a validation folder last; it may lack classes.

    Raises:
        DataError: there are no class folders, one of them is empty, or one holds something other than images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        hint = (
            "a table needs data.source=csv" if folder.is_file() else "expected the folder that holds the class folders"
        )
        raise DataError(f"no such data folder: {folder} ({hint})")
    layout = _find_layout(folder)
    classes = _list_classes(layout.training)
    with collect_faults(faults) as collected:
        images = _list_images(folder, layout, classes, collected)
        paths = [image.path for image in images]
        base = folder if layout.validation else layout.training
        examples = Examples(
            paths=np.array([str(path) for path in paths], np.str_),
            labels=np.array([image.label for image in images], np.int32),
            lesions=np.array([path.stem for path in paths], np.str_),
            rows=np.array([path.relative_to(base).as_posix() for path in paths], np.str_),
            class_names=tuple(classes),
            relative_paths=name_by_path([str(path) for path in paths], folder),
            subsets=np.array([image.subset for image in images], np.str_) if layout.validation else None,
        )
        if (folder / _LESIONS).exists():
            examples = _assign_lesions(examples, folder / _LESIONS, base, collected)
            collected += examples.find_mixed_lesions()
        else:
            examples = replace(examples, lesions=examples.names)
    return examples


def _find_layout(folder: Path) -> _Layout:
    """Finds the training and the validation folder, and logs the folders beside them, which are not read."""
    folders = _list_folders(folder)
    training = _find_named(folders, _TRAINING)
    validation = _find_named(folders, _VALIDATION) or _find_named(folders, _TEST)
    # The article's `Train` always holds class folders. Alone, others can be classes: a train is also a vehicle.
    if training and not validation and training.name != "Train" and _is_class_folder(training):
        training = None
    if not training:
        if validation and not any(_is_class_folder(path) for path in folders):
            raise DataError(
                f"{folder} holds {validation.name} but no folder train: add it, or name {validation} if its images "
                "are to be read"
            )
        _check_classes(folders)
        return _Layout(folder, None)
    for path in folders:
        if path not in (training, validation):
            if path in _select_named(folders, _VALIDATION) and _has_images(path):
                raise DataError(
                    f"{path} holds images, not class folders: move the images of each class into a folder, such as "
                    f"{path}/cat, or rename {path.name}, which is then not read"
                )
            _logger.info("%s is not read: it is beside %s", path, training.name)
    return _Layout(training, validation)


def _check_classes(folders: Sequence[Path]) -> None:
    """Checks that the class folders are not all subsets, such as `train` and `test`, with images in no class folders.

    Raises:
        DataError: they are.
    """
    training, held_out = _select_named(folders, _TRAINING), _select_named(folders, (*_VALIDATION, *_TEST))
    if training and held_out and len(training) + len(held_out) == len(folders):  # beside others, they are classes
        for path in (training[0], held_out[0]):
            if _list_folders(path):
                raise DataError(f"{path} holds images beside class folders: move the images elsewhere")
        raise DataError(
            f"{training[0]} and {held_out[0]} hold images, not class folders: move the images of each class into a "
            f"folder, such as {training[0]}/cat, or list images and labels in a table (data.source=csv)"
        )


def _select_named(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    return [path for path in folders if path.name.lower().removesuffix("_set") in names]


def _find_named(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Returns the folder that has one of the names and holds folders; None if there is none."""
    named = _select_named(folders, names)
    matches = [path for path in named if path.name == "Train" or _list_folders(path)]
    if len(matches) > 1:
        raise DataError(f"{matches[0]} and {matches[1]} have the same role: keep one of them, or merge them")
    return matches[0] if matches else None


def _is_class_folder(folder: Path) -> bool:
    """Returns whether a folder holds no folders, or images beside them."""
    return _has_images(folder) or not _list_folders(folder)


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not is_clutter(entry.name)]
    return any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)


def _list_folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name))


def _list_classes(folder: Path) -> list[str]:
    """Returns the names of the class folders, which must differ in more than the form of their accents."""
    classes = [path.name for path in _list_folders(folder)]
    if not classes:
        raise DataError(f"{folder} holds no class folders, such as {folder}/cat")
    spellings: dict[str, str] = {}
    for name in classes:
        if (other := spellings.setdefault(normalize_name(name), name)) != name:
            raise DataError(
                f"{folder} holds two folders {other!a} and {name!a}, two forms of one name in Unicode: move "
                "the images into one of them"
            )
    return classes


def _list_images(data_folder: Path, layout: _Layout, classes: Sequence[str], faults: Faults) -> list[_Image]:
    """Returns the images of both subsets; those of the validation folder must have classes of the training folder."""
    images = []
    label_of = {normalize_name(name): label for label, name in enumerate(classes)}
    for subset, top in zip(SUBSETS, layout, strict=True):
        others = [Path(e.path) for e in os.scandir(top) if not e.is_dir() and not is_clutter(e.name)] if top else []
        if top != data_folder:
            faults += [f"{path} is beside the class folders: move it elsewhere" for path in sorted(others)]
        elif unread := sorted(path.name for path in others if path.suffix.lower() in IMAGE_SUFFIXES):
            # `lesions.csv` and files of other purposes may be there.
            _logger.warning("%d images beside the class folders are not read, such as %s", len(unread), unread[0])
        for folder in _list_folders(top) if top else []:
            label = label_of.get(normalize_name(folder.name))
            if label is not None:
                images += [_Image(path, label, subset) for path in _list_class(folder, faults)]
            else:
                faults.append(
                    f"{folder} is not a class of {layout.training}: the classes are {', '.join(classes)}; rename or "
                    "remove it"
                )
    return images


def _list_class(folder: Path, faults: Faults) -> list[Path]:
    """Returns the images of a class folder, sorted by name."""
    paths = sorted(path for path in folder.iterdir() if not is_clutter(path.name))
    if not paths:
        faults.append(f"{folder} is empty: add its images or remove it")
    if paths and all(path.is_dir() for path in paths):
        faults.append(
            f"{folder} holds folders, not images: move the images into it, or specify {folder} as the folder of "
            "the data if these folders are the classes"
        )
        return []
    images = []
    for path in paths:
        if path.is_dir():
            faults.append(f"{path} is a folder in a class folder, which holds images only: move it elsewhere")
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.suffix.lower() in UNSUPPORTED_SUFFIXES:
            faults.append(f"{path} is in a format that cannot be read: convert it to JPEG or PNG")
        else:
            faults.append(f"{path} is not an image file ({', '.join(IMAGE_SUFFIXES)}): move it elsewhere")
    return images


def _assign_lesions(examples: Examples, table: Path, base: Path, faults: Faults) -> Examples:
    """Returns the examples that have a lesion in a table, which names images by path or file name."""
    table_faults = Faults()
    lesion_of = read_lesions(table, table_faults)
    keys, matches = [], match_names(_list_spellings(examples, base, table), lesion_of)
    for i, (name, row) in enumerate(zip(examples.names.tolist(), examples.rows.tolist(), strict=True)):
        listed = [key for key in matches[i :: len(examples)] if key is not None]
        keys.append(listed[0] if listed else name)
        if len({lesion_of[key] for key in listed}) > 1:
            faults.append(f"{table} has several lesions for {row} ({', '.join(dict.fromkeys(listed))}): keep one row")
    groups = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    for key, group in groups.items():
        if len(group) > 1 and key in lesion_of:
            listed_rows = ", ".join(examples.rows[group])
            faults.append(
                f"{base} holds {len(group)} images named {key} ({listed_rows}): name them by path in {table.name}, "
                f"such as {examples.names[group[0]]}"
            )
    faults += table_faults
    faults += [
        f"{path} has no row in {table}: add one for {key}, splits by lesion require it"
        for path, key in zip(examples.paths, keys, strict=True)
        if key not in lesion_of
    ]
    lesions = np.array([lesion_of.get(key, "") for key in keys], np.str_)
    return replace(examples, lesions=lesions).take(np.flatnonzero(lesions != ""))


def _list_spellings(examples: Examples, base: Path, table: Path) -> list[str]:
    """Returns the names that a table may have for the images: one spelling of all images, then the next one."""
    names, rows = examples.names.tolist(), examples.rows.tolist()
    prefix = "" if base == table.parent else f"{base.relative_to(table.parent).as_posix()}/"
    suffixed = [*rows, *(prefix + row for row in rows), *(Path(row).name for row in rows)]
    stripped, known = [os.path.splitext(name)[0] for name in suffixed], {*suffixed}
    # Without its suffix, 1.jpg.png would be the name of another image if there is a 1.jpg.
    stripped = [name if name not in known else names[i % len(names)] for i, name in enumerate(stripped)]
    return [*names, *suffixed, *stripped]


def write_folders(examples: Examples, folder: str | Path) -> None:
    """Copies images to `FOLDER/Train/CLASS/` and writes `lesions.csv`: the article's first step.

    The folder is called `.NAME.copying` until it is complete. The name is fixed, and not one of `atomic_files`, which
    other commands remove: an interrupted copy of many gigabytes must find its files and resume. A class without images
    gets no folder. Images that the source assigns to validation are in `FOLDER/Validation/CLASS/`.

    Raises:
        DataError: `folder` exists, a class has validation images only or cannot be the name of its folder, an image
            would not be read from there, or two images would have the same name.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: choose another name, or remove it")
    subsets = ["training"] * len(examples) if examples.subsets is None else examples.subsets
    counts = np.bincount(examples.labels[np.array(subsets) == "training"], minlength=len(examples.class_names))
    if missing := [examples.class_names[c] for c in np.unique(examples.labels) if not counts[c]]:
        raise DataError(f"there are no training images of {', '.join(missing)}: change the column split of the source")
    for name in examples.class_names:
        if is_clutter(name) or set(name) & {"/", "\\"}:
            raise DataError(f"the class {name!r} cannot be the name of a folder: rename it in the source")
    copy = folder.with_name(f".{folder.name}.copying")
    names = _name_copies(examples)
    for name, path in zip(names, examples.paths, strict=True):
        if is_clutter(name) or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"the copy of {path} would not be read: name the image like NAME.jpg")
    targets = {
        copy / _WRITTEN_NAMES[subset] / examples.class_names[label] / name: path
        for subset, label, name, path in zip(subsets, examples.labels, names, examples.paths, strict=True)
    }
    _remove_other_files(copy, targets)
    for class_folder in {target.parent for target in targets}:
        class_folder.mkdir(parents=True, exist_ok=True)
    for target, path in tqdm(targets.items(), "copying", unit=" images", disable=None, leave=False):
        if is_address(path):
            target.write_bytes(read_record(path))
            flush_to_disk(target)
        elif not _is_copy(target, source := os.stat(path)):
            shutil.copyfile(path, target)  # the mode could be read-only
            flush_to_disk(target)  # before its time of modification marks it as complete
            os.utime(target, ns=(source.st_atime_ns, source.st_mtime_ns))
    with open(copy / _LESIONS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "lesion_id"))
        stems = [Path(name).stem for name in names]
        lesions = examples.lesions.tolist() if examples.lesions_known else stems
        writer.writerows(zip(map(escape_formula, stems), map(escape_formula, lesions), strict=True))
    flush_to_disk(copy / _LESIONS)
    os.replace(copy, folder)


def _is_copy(target: Path, source: os.stat_result) -> bool:
    """Returns whether a copy of an earlier attempt is complete, and its source has not changed since then."""
    if not target.exists():
        return False
    copied = target.stat()
    return (copied.st_size, copied.st_mtime_ns) == (source.st_size, source.st_mtime_ns)


def _name_copies(examples: Examples) -> list[str]:
    """Returns the file names of copies: those of the images, or their relative paths with `_` where those repeat."""
    if examples.relative_paths is None:
        return [Path(path).name for path in examples.paths]
    names = [name.lstrip("./").replace("/", "_") for name in examples.relative_paths]
    path_of: dict[str, str] = {}
    for name, path in zip(names, examples.paths, strict=True):
        if (other := path_of.setdefault(Path(name).stem, path)) != path:
            raise DataError(f"{other} and {path} would both be named {Path(name).stem}: rename one of them")
    return names


def _remove_other_files(copy: Path, targets: Mapping[Path, str]) -> None:
    """Removes the files and folders in an interrupted copy that are not of this data set."""
    kept = set(targets) | {target.parent for target in targets}
    for pattern in ("*/*", "*/*/*"):
        for path in set(copy.glob(pattern)) - kept:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
