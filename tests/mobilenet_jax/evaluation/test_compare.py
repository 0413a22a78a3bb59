import dataclasses

import numpy as np
import pytest

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.compare import compare
from tests.helpers.predictions import make_predictions, sample_outputs


def write_evaluation(workdir, predictions):
    folder = workdir / "evaluation" / "validation"
    folder.mkdir(parents=True)
    (folder / "predictions.csv").write_text(predictions.to_csv())
    (folder / "metrics.json").write_text('{"weights": ["a", "b"], "views": 1, "correction": null}')
    return workdir


def test_only_common_images_are_compared_in_any_order(tmp_path):
    y, p = sample_outputs(60)
    table = make_predictions(y, p)
    first = write_evaluation(tmp_path / "a" / "run", table.take(np.arange(50)))
    second = write_evaluation(tmp_path / "b" / "run", table.take(np.arange(59, 9, -1)))
    comparison = compare([first, second], "validation", resamples=10)
    assert comparison.images == 40
    assert comparison.metrics[0] == comparison.metrics[1]
    assert comparison.differences[0]["accuracy"] == (0, 0)
    assert comparison.names == [str(first), str(second)], "runs with the same name are named by their path"


def test_an_interval_that_excludes_zero_is_marked(tmp_path):
    y, p = sample_outputs(200)
    first = write_evaluation(tmp_path / "model", make_predictions(y, p))
    perfect = write_evaluation(tmp_path / "perfect", make_predictions(y, np.eye(4)[y]))
    table = compare([first, perfect], "validation", resamples=50).format_table()
    [row] = [line for line in table.splitlines() if line.startswith("| accuracy")]
    assert row.endswith(" *) |")


def test_metrics_of_one_class_are_undefined(tmp_path):
    y, p = sample_outputs(20)
    table = make_predictions(np.zeros_like(y), p)
    runs = [write_evaluation(tmp_path / name, table) for name in ("a", "b")]
    rows = compare(runs, "validation", resamples=5).format_table().splitlines()
    assert "| macro AUC | undefined | undefined |" in rows
    assert "nan" not in "".join(rows)


def test_lesions_are_resampled_and_not_their_images(tmp_path):
    y, p = sample_outputs(60)
    runs = []
    for name, probabilities in (("first", p), ("second", np.eye(4)[y])):
        pairs = make_predictions(np.repeat(y, 2), np.repeat(probabilities, 2, axis=0))
        runs.append((name, dataclasses.replace(pairs, lesions=np.repeat([f"L{i}" for i in range(60)], 2))))
    together = compare([write_evaluation(tmp_path / name, table) for name, table in runs], "validation", resamples=50)
    alone = [
        write_evaluation(tmp_path / "alone" / name, dataclasses.replace(table, lesions=table.images))
        for name, table in runs
    ]
    (low, high), (lowest, highest) = (
        result.differences[0]["accuracy"] for result in (together, compare(alone, "validation", resamples=50))
    )
    assert high - low > 1.15 * (highest - lowest), "the two images of a lesion have the same prediction"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: {"class_names": ("MEL", "NV", "BCC", "VASC")}, "the classes of .* differ"),
        (lambda table: {"images": np.char.add("other_", table.images)}, "no image in common"),
        (lambda table: {"labels": (table.labels + 1) % 4}, "the labels of .* differ"),
        (lambda table: {"lesions": table.lesions[::-1]}, "the lesions of .* differ"),
    ],
)
def test_evaluations_of_other_data_are_refused(tmp_path, change, message):
    table = make_predictions(*sample_outputs(20))
    first = write_evaluation(tmp_path / "a", table)
    second = write_evaluation(tmp_path / "b", dataclasses.replace(table, **change(table)))
    with pytest.raises(EvaluationError, match=message):
        compare([first, second], "validation", resamples=1)
