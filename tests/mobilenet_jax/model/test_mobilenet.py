import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from mobilenet_jax.model.mobilenet import ALPHAS, MobileNet
from mobilenet_jax.model.summary import format_json, format_text, summarize
from tests.helpers.runs import SHARED


def test_layer_table_is_the_articles_row_for_row():
    article = SHARED / "reference/article.md"
    if not article.exists():
        pytest.skip(f"needs {article}, which is not part of the repository")
    row = re.compile(r"^(\w+) \((\w+)\)? +(\(None.*?\)) +(\d+) ", re.MULTILINE)
    theirs, mine = row.findall(article.read_text()), row.findall(format_text(summarize()))
    assert len(theirs) == 87
    assert mine == theirs


def test_totals_are_the_articles():
    summary = summarize()
    assert (summary.total, summary.trainable, summary.non_trainable) == (3_228_864, 3_206_976, 21_888)
    assert sum(row.params for row in summary.rows) == summary.total


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("include_top", [False, True])
def test_parameters_are_as_many_as_in_keras(alpha, include_top):
    reference = keras.applications.MobileNet(
        weights=None, alpha=alpha, include_top=include_top, input_shape=(224, 224, 3)
    )
    assert summarize(alpha, 224, include_top).total == reference.count_params()


def test_json_holds_the_same_rows():
    summary = summarize(0.5, 97)
    table = json.loads(format_json(summary))
    assert [(r["name"], r["params"]) for r in table["layers"]] == [(r.name, r.params) for r in summary.rows]
    assert table["layers"][0]["shape"] == [None, 97, 97, 3]
    assert table["total"] == summary.total


@pytest.mark.parametrize("head", ["article", "article_bn", "small", "imagenet"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_heads_give_logits(head, size):
    model = MobileNet(0.25, head, num_classes=5)
    images = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0, impl="rbg"), images, train=False))()
    logits = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    assert logits.shape == (2, 5)
    assert float(jnp.abs(logits.sum(-1) - 1).min()) > 1e-4, "probabilities, not logits"


def test_articles_head_has_its_sizes():
    model = MobileNet(1.0, "article")
    images = jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    shapes = {name: params[name]["kernel"].shape for name in ("dense_1", "dense_2", "predictions")}
    assert shapes == {"dense_1": (50176, 1024), "dense_2": (1024, 1024), "predictions": (1024, 7)}


def test_dropout_acts_only_in_training():
    model = MobileNet(0.25, "small", dropout=0.5)
    images = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0, impl="rbg"), images, train=False))()

    @jax.jit
    def train(seed):
        return model.apply(
            variables, images, train=True, rngs={"dropout": jax.random.key(seed)}, mutable=["batch_stats"]
        )

    evaluate = jax.jit(lambda: model.apply(variables, images, train=False))
    assert not np.allclose(train(0)[0], train(1)[0])
    np.testing.assert_array_equal(evaluate(), evaluate())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), variables["batch_stats"], train(0)[1]["batch_stats"])
    assert all(jax.tree.leaves(moved)), "every batch norm updates its statistics"


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (MobileNet(0.3), (1, 32, 32, 3), "0.3"),
        (MobileNet(head="big"), (1, 32, 32, 3), "'big'"),
        (MobileNet(), (1, 31, 32, 3), "31"),
        (MobileNet(), (1, 32, 32, 1), "1"),
    ],
)
def test_wrong_arguments_are_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))


def test_model_and_step_need_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "import mobilenet_jax.cli.main, mobilenet_jax.model.summary, mobilenet_jax.training.step\n"
        "import mobilenet_jax.training.checkpoints, mobilenet_jax.training.losses\n"
        "import mobilenet_jax.sharding, mobilenet_jax.weights.load, mobilenet_jax.reporting.report\n"
        "import mobilenet_jax.inference.predict_files\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
