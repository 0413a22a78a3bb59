import json

import pytest

from mobilenet_jax.cli import summary
from mobilenet_jax.model.mobilenet import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE


def test_text_ends_with_the_totals(run):
    status, out, _ = run("summary")
    assert status == 0
    assert out.splitlines()[-3:] == [
        "Total params: 3,228,864",
        "Trainable params: 3,206,976",
        "Non-trainable params: 21,888",
    ]


def test_json_has_the_rows_of_other_sizes(run):
    status, out, _ = run("summary", "--alpha=0.25", "--image-size=65", "--include-top", "--format=json")
    assert status == 0
    table = json.loads(out)
    assert table["layers"][1] == {
        "name": "conv1_pad", "type": "ZeroPadding2D", "shape": [None, 67, 67, 3], "params": 0,
    }  # fmt: skip
    assert table["layers"][-1]["name"] == "conv_preds"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--alpha=0.3", "0.3 is not a multiple of 1/32 from 1/32 to 32"),
        ("--alpha=1e10", "1e10 is not a multiple of 1/32 from 1/32 to 32"),
        ("--image-size=16", "16 is less than 32"),
        ("--image-size=99999", "99999 is more than 2048"),
    ],
)
def test_wrong_arguments_are_named(run, argument, message):
    status, _, err = run("summary", argument)
    assert status != 0
    assert message in err


def test_limits_of_the_options_are_those_of_the_model():
    assert (summary._MIN_IMAGE_SIZE, summary._MAX_IMAGE_SIZE) == (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE)
