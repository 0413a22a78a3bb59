import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from mobilenet_jax.errors import EvaluationError
from mobilenet_jax.evaluation.predictions import concatenate_predictions, read_predictions
from tests.helpers.predictions import NAMES, make_predictions, sample_outputs


def test_predictions_are_read_as_they_were_written(tmp_path):
    written = make_predictions(*sample_outputs())
    (tmp_path / "p.csv").write_text(written.to_csv())
    read = read_predictions(tmp_path / "p.csv")
    assert read.class_names == NAMES
    for column in ("images", "lesions", "labels"):
        np.testing.assert_array_equal(getattr(read, column), getattr(written, column))
    np.testing.assert_allclose(read.probabilities, written.probabilities, rtol=1e-8)


def test_concatenated_parts_are_the_whole_table():
    whole = make_predictions(*sample_outputs(10))
    joined = concatenate_predictions([whole.take(np.arange(4)), whole.take(np.arange(4, 10))])
    assert joined.to_csv() == whole.to_csv()


def test_missing_predictions_name_the_command_that_writes_them(tmp_path):
    with pytest.raises(EvaluationError, match="is missing: run mobilenet-jax evaluate"):
        read_predictions(tmp_path / "p.csv")


_HEADER = "image,lesion,label,predicted,A\n"


@pytest.mark.parametrize(
    "text",
    ["", "image,label\na,b\n", "image,lesion,label,predicted,A\ni,l,B,A,1\n", f"{_HEADER}i,l,A,A,nan\n",
     f"{_HEADER}i,l,A,A,0\n", f"{_HEADER}i,l,A,A,2\n", f"{_HEADER}i,l,A,A,1\ni,l,A,A,1\n"],
)  # fmt: skip
def test_files_that_are_not_predictions_are_refused(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(EvaluationError, match="cannot read"):
        read_predictions(tmp_path / "p.csv")


def test_hostile_names_are_written_as_text_and_read_as_they_were(tmp_path):
    table = replace(
        make_predictions([0, 1], np.eye(4)[:2], np.array(["-1", "@lesion"])),
        images=np.array(["=cmd|' /C calc'!A0", "+1"]), class_names=("=HYPERLINK(1)", "-", "@c", "'d"),
    )  # fmt: skip
    path = tmp_path / "predictions.csv"
    path.write_text(table.to_csv())
    cells = [cell for row in csv.reader(io.StringIO(table.to_csv())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@"))]
    stored = read_predictions(path)
    assert stored.class_names == table.class_names
    assert stored.images.tolist() == table.images.tolist()
    assert stored.lesions.tolist() == table.lesions.tolist()
    assert stored.labels.tolist() == [0, 1]
