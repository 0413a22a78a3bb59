"""A bundled synthetic data set for users without data: drawings of lesions, in the layout of the ISIC archive.

Many lesions are drawn in several views, and the classes are as imbalanced as those of a small clinic.
"""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np

from input_pipeline.atomic_files import replace_atomically
from input_pipeline.resources import count_cpus
from input_pipeline.sources.isic import CLASS_NAMES, GROUND_TRUTH, GROUPINGS, INPUT
from input_pipeline.sources.lesion_drawing import SEED, draw_lesion
from input_pipeline.user_cache import create_cache_folder, get_cache_folder

_VERSION = 1  # raised when the drawings change, so that cached ones are replaced
_LESIONS = {"MEL": 70, "NV": 150, "BCC": 50, "AKIEC": 42, "BKL": 70, "DF": 32, "VASC": 34}
_VIEWS = (1, 1, 2, 3)  # the number of images of a lesion is sampled from these


def prepare_sample() -> Path:
    """Returns the folder of the sample, which is drawn into the user's cache on first use (some seconds).

    Raises:
        UserError: the cache cannot be written.
    """
    folder = get_cache_folder(f"sample-v{_VERSION}")
    if not folder.is_dir():
        lock = filelock.FileLock(create_cache_folder("") / f"{folder.name}.lock")
        with lock:  # one process draws, and the others wait for its drawings
            if not folder.is_dir():
                with replace_atomically(folder) as unfinished:
                    write_sample(unfinished)
    return folder


def write_sample(folder: Path) -> None:
    """Draws all images and writes them and their tables in the archive's layout."""
    images, truth_name = folder / INPUT.format("Training"), GROUND_TRUTH.format("Training")
    images.mkdir(parents=True)
    (folder / truth_name).mkdir()
    lesions = [(name, number) for name, count in _LESIONS.items() for number in range(count)]
    rng = np.random.default_rng(SEED)
    views = [(name, number, view) for name, number in lesions for view in range(rng.choice(_VIEWS))]
    views = [views[i] for i in rng.permutation(len(views))]

    def draw(i: int) -> None:
        draw_lesion(*views[i]).save(images / f"ISIC_{i:07d}.jpg", quality=92)

    with ThreadPoolExecutor(count_cpus()) as pool:
        list(pool.map(draw, range(len(views))))  # list() raises the errors of the threads
    truth, groupings = [], []
    for i, (class_name, number, _) in enumerate(views):
        image = f"ISIC_{i:07d}"
        truth.append([image, *(f"{float(name == class_name)}" for name in CLASS_NAMES)])
        groupings.append([image, f"{class_name}_{number:04d}", "drawing"])
    for path, header, rows in (
        (folder / truth_name / f"{truth_name}.csv", ["image", *CLASS_NAMES], truth),
        (folder / GROUPINGS, ["image", "lesion_id", "diagnosis_confirm_type"], groupings),
    ):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
