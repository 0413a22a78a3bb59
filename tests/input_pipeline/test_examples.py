import ntpath
import os
from dataclasses import replace

import numpy as np

from input_pipeline.examples import Examples


def _make_examples(paths):
    n = len(paths)
    return Examples(np.array(paths), np.zeros(n, np.int32), np.array(["l"] * n), np.array(["t.csv:2"] * n), ("a", "b"))


def test_the_fingerprint_depends_on_all_that_a_run_learns_from():
    examples = _make_examples(["1.jpg", "2.jpg"])
    changes = (
        {"labels": np.array([0, 1], np.int32)}, {"lesions": np.array(["l", "m"])}, {"class_names": ("b", "a")},
        {"soft_labels": np.eye(2, dtype=np.float32)}, {"soft_labels": 1 - np.eye(2, dtype=np.float32)},
    )  # fmt: skip
    fingerprints = {replace(examples, **change).compute_fingerprint() for change in changes}
    assert len({examples.compute_fingerprint(), *fingerprints}) == 6


def test_the_class_table_counts_images_and_lesions():
    examples = _make_examples(["1.jpg", "2.jpg", "3.jpg"])
    examples = replace(examples, labels=np.array([0, 0, 1], np.int32), lesions=np.array(["l", "l", "m"]))
    rows = [line.split() for line in examples.format_class_table().splitlines()]
    assert rows == [["class", "images", "lesions"], ["a", "2", "1"], ["b", "1", "1"], ["all", "3", "2"]]


def test_the_fingerprint_does_not_depend_on_the_folder_or_the_separator(monkeypatch):
    expected = _make_examples(["/data/x/1.jpg", "y/t.array_record-00000-of-00001#3/2.jpg"]).compute_fingerprint()
    assert _make_examples(["1.jpg", "2.jpg"]).compute_fingerprint() == expected
    assert _make_examples(["1.jpg", "3.jpg"]).compute_fingerprint() != expected
    monkeypatch.setattr(os, "path", ntpath)  # as on Windows
    examples = _make_examples([r"C:\data\x\1.jpg", r"y\t.array_record-00000-of-00001#3/2.jpg"])
    assert examples.compute_fingerprint() == expected
