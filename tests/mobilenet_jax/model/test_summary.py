import json
import re

import keras
import pytest

from mobilenet_jax.model.summary import format_json, format_text, summarize
from tests.helpers.runs import SHARED


def test_the_layer_table_equals_the_articles():
    article = SHARED / "reference/article.md"
    if not article.exists():
        pytest.skip(f"needs {article}, which is not part of the repository")
    row = re.compile(r"^(\w+) \((\w+)\)? +(\(None.*?\)) +(\d+) ", re.MULTILINE)
    expected = row.findall(article.read_text())
    assert len(expected) == 87
    assert row.findall(format_text(summarize())) == expected


def test_totals_equal_the_articles():
    summary = summarize()
    assert (summary.total, summary.trainable, summary.non_trainable) == (3_228_864, 3_206_976, 21_888)
    assert sum(row.params for row in summary.rows) == summary.total


@pytest.mark.parametrize(
    "alpha", [0.125, 0.25, 1.0, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.5, 0.75, 1.25))]
)
@pytest.mark.parametrize("include_top", [False, True])
def test_the_number_of_parameters_equals_keras(alpha, include_top):
    reference = keras.applications.MobileNet(
        weights=None, alpha=alpha, include_top=include_top, input_shape=(224, 224, 3)
    )
    assert summarize(alpha, 224, include_top).total == reference.count_params()


def test_json_has_the_rows_of_the_table():
    summary = summarize(0.5, 97)
    table = json.loads(format_json(summary))
    assert [(r["name"], r["params"]) for r in table["layers"]] == [(r.name, r.params) for r in summary.rows]
    assert table["layers"][0]["shape"] == [None, 97, 97, 3]
    assert table["total"] == summary.total
