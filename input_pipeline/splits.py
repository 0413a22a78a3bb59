"""Which examples are for training and which for validation."""

import numpy as np
from sklearn.model_selection import train_test_split

from input_pipeline.examples import DataError, Examples


def split_by_lesion(examples: Examples, val_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Splits so that all images of a lesion stand on one side.

    Lesions are drawn class by class, so each class gives `val_fraction` of its lesions to validation. Images of one
    lesion are near copies of each other: a split that parts them measures memory, not skill.

    Args:
        examples: all examples.
        val_fraction: the share of lesions for validation, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        Examples for training and for validation, each in the order they had.

    Raises:
        DataError: a lesion has two labels, or a class has too few lesions to stand on both sides.
    """
    lesions, first, lesion_of = np.unique(examples.lesions, return_index=True, return_inverse=True)
    lesion_labels = examples.labels[first]
    mixed = np.flatnonzero(lesion_labels[lesion_of] != examples.labels)
    if len(mixed):
        row, other = mixed[0], first[lesion_of[mixed[0]]]
        names = examples.class_names
        raise DataError(
            f"{examples.rows[row]}: lesion {examples.lesions[row]} is {names[examples.labels[row]]} here and "
            f"{names[examples.labels[other]]} at {examples.rows[other]}: give it one class"
        )
    counts = np.bincount(lesion_labels, minlength=len(examples.class_names))
    sides = (round(val_fraction * count) for count in counts)
    if any(count and not 0 < side < count for side, count in zip(sides, counts, strict=True)):
        table = ", ".join(f"{n} {c}" for n, c in zip(examples.class_names, counts, strict=True))
        raise DataError(
            f"cannot split by lesion with data.val_fraction={val_fraction} (lesions: {table}): each class needs "
            "lesions for both sides; add images or change data.val_fraction"
        )
    _, validation = train_test_split(
        np.arange(len(lesions)), test_size=val_fraction, random_state=seed, stratify=lesion_labels
    )
    held_out = np.isin(lesion_of, validation)
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))
