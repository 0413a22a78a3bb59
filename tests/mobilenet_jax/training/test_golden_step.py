"""Three train steps compared with stored numbers, to detect accidental changes of the arithmetic.

They are computed in float64, so that they do not depend on the order in which a processor sums. After an intended
change, `python -m tests.mobilenet_jax.training.test_golden_step` replaces the stored numbers.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs.mobilenet import get_config
from mobilenet_jax.model.mobilenet import MobileNet
from mobilenet_jax.training.losses import Regularizer
from mobilenet_jax.training.optimizer import make_optimizer, make_schedule
from mobilenet_jax.training.step import Objective, create_train_state, make_eval_step, make_train_step

FILE = Path(__file__).with_suffix(".json")
OBJECTIVE = Objective(Regularizer(1e-5, 1e-3, 1e-4, 1e-3), np.linspace(0.5, 2, 7), label_smoothing=0.1, ema_decay=0.9)


def sample_variable(path, leaf):
    """Samples a variable as of a trained model: no zeros, variances above 0.

    NumPy samples it, because its random streams do not change between versions.
    """
    rng, tensor = np.random.default_rng([*"/".join(key.key for key in path).encode()]), path[-1].key
    if tensor in ("scale", "var"):
        return rng.uniform(0.5, 1.5, leaf.shape)
    return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])) if tensor == "kernel" else 0.1, leaf.shape)


def compute_norm(arrays):
    return float(np.sqrt(sum(np.square(x).sum() for x in arrays)))


def run_three_steps():
    """Returns one list per step, then the evaluation losses.

    The list of a step holds the objective, the distances of the parameters, their average and the statistics from
    their start, and the norm of the optimizer's moments.
    """
    model = MobileNet(0.25, "article_bn", dropout=0.5, frozen_blocks=1, dtype=jnp.float64)
    config = get_config()
    settings = config.optimizer
    settings.update(learning_rate=0.01, warmup_epochs=1, schedule="cosine", clip_norm=5.0, weight_decay=1e-3)
    schedule = make_schedule(settings, epochs=config.train.epochs, steps_per_epoch=2)
    optimizer = make_optimizer(settings, schedule, model)
    images = np.random.default_rng(0).uniform(0, 1, (8, 64, 64, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    start = jax.tree_util.tree_map_with_path(sample_variable, shapes)
    variables = jax.tree.map(jnp.array, start)  # copies, because the step donates its state
    state = create_train_state(variables["params"], variables["batch_stats"], optimizer, ema=True)
    step = make_train_step(model, optimizer, jax.random.key(0, impl="threefry2x32"), OBJECTIVE)
    numbers = []
    for i in range(3):
        batch = {"image": jnp.array(np.roll(images, i, axis=1)), "label": jnp.arange(8) % 7}
        state, _, value = step(state, batch, jnp.ones(()))
        pairs = (
            (state.params, start["params"]),
            (state.ema, start["params"]),
            (state.batch_stats, start["batch_stats"]),
        )
        distances = [compute_norm(jax.tree.leaves(jax.tree.map(np.subtract, *pair))) for pair in pairs]
        moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]  # without the step counters
        numbers.append([float(value), *distances, compute_norm(moments)])
    result = make_eval_step(model)(state, {**batch, "mask": jnp.ones(8, bool)})
    return [*numbers, np.asarray(result.loss).tolist()]


def test_three_steps_equal_the_stored_numbers():
    with jax.enable_x64(True):
        numbers = run_three_steps()
    for step, expected in zip(numbers, json.loads(FILE.read_text()), strict=True):
        np.testing.assert_allclose(step, expected, rtol=1e-5, atol=1e-9)


if __name__ == "__main__":
    with jax.enable_x64(True):
        FILE.write_text(json.dumps(run_three_steps(), indent=1) + "\n")
