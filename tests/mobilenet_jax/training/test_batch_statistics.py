import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mobilenet_jax.errors import Interrupted, WeightsError
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.batch_statistics import make_statistics_estimator, pool_statistics
from mobilenet_jax.training.checkpoints import Checkpoints
from mobilenet_jax.training.data import load_examples
from mobilenet_jax.training.loop import compute_validation_metrics, make_feed, train_and_evaluate
from mobilenet_jax.training.setup import build_program
from mobilenet_jax.training.step import TrainState
from mobilenet_jax.weights.load import read_weights
from tests.helpers.runs import make_config, read_records, request_stop

REESTIMATE = {"train__reestimate_batch_norm": 28, "optimizer__learning_rate": 0.05}


def _make_state(model, *, ema=None):
    variables = jax.jit(lambda k: model.init(k, jnp.zeros((1, 32, 32, 3)), train=False))(jax.random.key(0, impl="rbg"))
    return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables["batch_stats"], (), ema)


def _make_batches(count=3):
    rng = np.random.default_rng(0)
    return [{"image": rng.random((4, 32, 32, 3), np.float32) ** (i + 1)} for i in range(count)]


def test_pooled_statistics_are_those_of_all_values():
    batches = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32) + 100
    pooled = pool_statistics([{"bn": {"mean": x.mean(0), "var": x.var(0)}} for x in batches])["bn"]
    np.testing.assert_allclose(pooled["mean"], batches.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(pooled["var"], batches.var((0, 1)), rtol=1e-4)
    assert pooled["mean"].dtype == np.float32


def test_statistics_of_the_first_layer_are_those_of_its_inputs():
    model = MobileNet(0.25, "small", dropout=0.9)
    state, batches = _make_state(model), _make_batches()
    statistics = make_statistics_estimator(model)(state, batches)
    images = np.concatenate([batch["image"] for batch in batches])
    inputs = jax.lax.conv_general_dilated(
        images, state.params["conv1"]["kernel"], (2, 2), ((0, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(statistics["conv1_bn"]["mean"], inputs.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["conv1_bn"]["var"], inputs.var((0, 1, 2)), rtol=1e-3)


def test_one_batch_is_evaluated_as_it_is_normalized_in_training():
    """Includes the head: its dropout is disabled while its statistics are measured."""
    model = MobileNet(0.25, "article_bn", dropout=0.0)
    state, [batch] = _make_state(model), _make_batches(1)
    statistics = make_statistics_estimator(model.clone(dropout=0.5))(state, [batch])

    @jax.jit
    def apply(statistics):
        variables = {"params": state.params, "batch_stats": statistics}
        trained, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return trained, model.apply(variables, batch["image"], train=False)

    trained, evaluated = apply(statistics)
    np.testing.assert_allclose(evaluated, trained, atol=0.01)  # rounding, amplified by random weights
    assert not np.allclose(apply(state.batch_stats)[1], trained, rtol=0.1)


@pytest.mark.parametrize(("batch_norm", "keeps"), [("frozen", True), ("train", False)])
def test_frozen_blocks_keep_their_statistics_to_the_bit(batch_norm, keeps):
    model = MobileNet(0.25, "small", frozen_blocks=5, batch_norm=batch_norm)
    state = _make_state(model)
    before = jax.tree.map(lambda x: np.float32(0.1) + x, state.batch_stats)
    statistics = make_statistics_estimator(model)(state.replace(batch_stats=before), _make_batches())
    for layer, tensors in statistics.items():
        for tensor, value in tensors.items():
            unchanged = np.array_equal(value, before[layer][tensor])
            assert unchanged == (keeps and layer in model.frozen_layers), (layer, tensor)


def test_statistics_are_those_of_the_moving_average_of_the_parameters():
    model = MobileNet(0.25, "small")
    state, batches = _make_state(model), _make_batches()
    average = jax.tree.map(lambda x: 0.9 * x + 0.01, state.params)
    estimate = make_statistics_estimator(model)
    statistics = estimate(state.replace(ema=average), batches)
    expected = estimate(state.replace(params=average), batches)
    jax.tree.map(np.testing.assert_array_equal, statistics, expected)
    assert not np.allclose(statistics["conv1_bn"]["mean"], estimate(state, batches)["conv1_bn"]["mean"])


@pytest.mark.parametrize(("images", "count"), [(1, 8), (8, 8), (23, 16), (10_000, 24)])
def test_whole_batches_of_unaugmented_training_images_repeat(data, images, count):
    config = make_config(data)  # 28 training images, 8 per batch
    training, validation = load_examples(config.data, 7, config.seed)
    feed = make_feed(config, training, validation, (0, 1))
    first, second = (list(feed.iterate_statistics(images)) for _ in range(2))
    assert sum(len(batch["image"]) for batch in first) == count
    assert all(batch["mask"].all() for batch in first)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    plain = {
        np.asarray(image).tobytes()
        for batch in make_feed(config, training, training, (0, 1)).iterate_validation(0)
        for image in batch["image"]
    }
    assert {np.asarray(image).tobytes() for batch in first for image in batch["image"]} <= plain


@pytest.fixture(scope="module")
def reestimated(data, tmp_path_factory):
    """Returns the workdir of a run of three epochs with re-estimation; it must not be changed."""
    workdir = tmp_path_factory.mktemp("reestimated") / "run"
    train_and_evaluate(make_config(data, train__epochs=3, **REESTIMATE), workdir)
    return workdir


def _restore(data, workdir):
    program, state, scaling = build_program(make_config(data, **REESTIMATE), np.arange(7), steps_per_epoch=3)
    with Checkpoints(workdir / "checkpoints", lambda history: 0.0) as checkpoints:
        return program, *checkpoints.restore(state), scaling


def test_training_is_the_same_with_and_without_reestimation(data, reestimated, tmp_path):
    without = {**REESTIMATE, "train__reestimate_batch_norm": 0}
    train_and_evaluate(make_config(data, train__epochs=3, **without), tmp_path / "run")
    for record, other in zip(read_records(reestimated), read_records(tmp_path / "run"), strict=True):
        assert [name for name in record if record[name] != other[name] and not name.startswith("val_")] == []
        assert record["val_loss"] != other["val_loss"]
    states = [_restore(data, workdir)[1] for workdir in (reestimated, tmp_path / "run")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_weights_of_a_workdir_are_the_evaluated_ones(data, reestimated):
    program, state, _, scaling = _restore(data, reestimated)
    weights = read_weights(reestimated, checkpoint="latest")
    config = make_config(data, **REESTIMATE)
    feed = make_feed(config, *load_examples(config.data, 7, config.seed), scaling)
    statistics = program.estimate_statistics(state, feed.iterate_statistics(28))
    jax.tree.map(np.testing.assert_array_equal, weights.variables, {"params": state.params, "batch_stats": statistics})
    metrics = compute_validation_metrics(
        program.eval_step, state, feed.iterate_validation(2), weights.variables["batch_stats"]
    )
    assert metrics["loss"] == read_records(reestimated)[-1]["val_loss"]


def test_a_resumed_run_with_reestimation_equals_an_uninterrupted_one(data, reestimated, tmp_path):
    for epochs in (1, 3):
        train_and_evaluate(make_config(data, train__epochs=epochs, **REESTIMATE), tmp_path / "run")
    assert read_records(tmp_path / "run") == read_records(reestimated)
    resumed, expected = (read_weights(w, checkpoint="latest").tensors for w in (tmp_path / "run", reestimated))
    assert all(resumed[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_checkpoint_within_an_epoch_has_reestimated_statistics(data, tmp_path, monkeypatch):
    request_stop(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train_and_evaluate(make_config(data, **REESTIMATE), tmp_path / "run")
    _, state, _, _ = _restore(data, tmp_path / "run")
    statistics = read_weights(tmp_path / "run", checkpoint="latest").variables["batch_stats"]
    assert not np.allclose(statistics["conv1_bn"]["mean"], state.batch_stats["conv1_bn"]["mean"], rtol=0.1)


def test_missing_reestimated_statistics_are_an_error(reestimated, tmp_path):
    workdir = shutil.copytree(reestimated, tmp_path / "run")
    for folder in (workdir / "checkpoints").glob("*/reestimated"):
        shutil.rmtree(folder)
    with pytest.raises(WeightsError, match=r"damaged \(\d+/reestimated holds no arrays\)"):
        read_weights(workdir)


def test_a_run_of_an_earlier_version_resumes_and_its_weights_are_read(data, workdir, tmp_path):
    """Removes the keys that were added later from the `config.json` of a run."""
    train_and_evaluate(make_config(data, train__epochs=2), tmp_path / "whole")
    file = workdir / "config.json"
    config = json.loads(file.read_text())
    del config["train"]["reestimate_batch_norm"]
    file.write_text(json.dumps(config))
    assert not list(workdir.glob("checkpoints/*/reestimated"))
    _, state, _, _ = _restore(data, workdir)
    weights = read_weights(workdir).variables
    jax.tree.map(np.testing.assert_array_equal, weights, {"params": state.params, "batch_stats": state.batch_stats})
    train_and_evaluate(make_config(data, train__epochs=2), workdir)
    assert read_records(workdir) == read_records(tmp_path / "whole")
