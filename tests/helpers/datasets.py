"""Small data sets in the layout of the ISIC archive."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.sources.isic import CLASS_NAMES


def write_isic(folder: Path, *, one: str = "1.0", zero: str = "0.0") -> Path:
    """Writes a small data set in the archive's layout, two images a lesion."""
    images = folder / "ISIC2018_Task3_Training_Input"
    truth = folder / "ISIC2018_Task3_Training_GroundTruth"
    images.mkdir(parents=True)
    truth.mkdir()
    rng = np.random.default_rng(0)
    rows, groups, number = [], [], 0
    for label in range(7):
        color = np.array([40 + 30 * label, 250 - 30 * label, 128])
        for lesion in range(3):
            for _ in range(2):
                name = f"ISIC_{number:07d}"
                pixels = np.clip(color + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(images / f"{name}.jpg")
                rows.append(",".join([name, *(one if i == label else zero for i in range(7))]))
                groups.append(f"{name},L{label}{lesion},histopathology")
                number += 1
    header = ",".join(["image", *CLASS_NAMES])
    (truth / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "\n".join(["image,lesion_id,diagnosis_confirm_type", *groups]) + "\n"
    )
    return folder


def add_official_sets(folder: Path) -> Path:
    """Adds the archive's validation and test sets to `write_isic`'s: the same images under names of their own."""
    for number, part in enumerate(("Validation", "Test"), start=1):
        for path in sorted(folder.glob("*Training_Input/*.jpg")):
            name = path.name.replace("ISIC_0", f"ISIC_{number}")
            copy = folder / f"ISIC2018_Task3_{part}_Input" / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        [truth] = folder.glob("*Training_GroundTruth/*.csv")
        other = folder / str(truth.relative_to(folder)).replace("Training", part)
        other.parent.mkdir()
        other.write_text(truth.read_text().replace("ISIC_0", f"ISIC_{number}"))
    return folder
