"""The effect of each setting of the recipe, as a sweep at alpha 0.25 and 96 x 96 pixels, 12 epochs.

    mobilenet-jax sweep benchmarks/ablation.py --out DIR --tta 8 --correct prior --config.data.dir=DATA

DATA is in the ISIC archive's layout. The first variant is the recipe before this study, and the second changes the
sampling only. The others before `recipe` change something from the second. `recipe` is the recipe itself, without the
label smoothing of those before it; the variants after it change one setting each. The results are in docs/recipe.md.
"""

from mobilenet_jax.sweeps.sweep import Sweep

_START = {
    "data.sampling": "balanced",
    "data.resize": "stretch",
    "loss.logit_adjustment": 0.0,
    "loss.label_smoothing": 0.05,
}
_UNIFORM = {**_START, "data.sampling": "uniform"}
_SQUARE = {**_UNIFORM, "data.resize": "crop"}
_RANDOM_CROP = {
    "augment.width_shift": 0.0,
    "augment.height_shift": 0.0,
    "augment.zoom": 0.0,
    "augment.crop_area": 0.5,
    "augment.crop_ratio": 1.33,
}
_COLOR = {"augment.brightness": 0.2, "augment.contrast": 0.2, "augment.saturation": 0.3, "augment.hue": 0.03}


def get_sweep() -> Sweep:
    """Returns the sweep."""
    return Sweep(
        "phone",
        {
            "start": _START,
            "uniform": _UNIFORM,
            "average": {**_UNIFORM, "train.ema_decay": 0.998},
            "random-crop": {**_UNIFORM, **_RANDOM_CROP},
            "adjusted": {**_UNIFORM, "loss.logit_adjustment": 1.0},
            "focal": {**_UNIFORM, "loss.focal_gamma": 2.0},
            "deferred": {**_UNIFORM, "loss.class_weights": "effective", "loss.weights_from_epoch": 9},
            "square": _SQUARE,
            "square-random-crop": {**_SQUARE, **_RANDOM_CROP},
            "square-mixup": {**_SQUARE, "augment.mixup": 0.2},
            "square-cutmix": {**_SQUARE, "augment.cutmix": 1.0},
            "square-color": {**_SQUARE, **_COLOR},
            "square-two-operations": {**_SQUARE, **_COLOR, "augment.operations": 2},
            "recipe": {},
            "smoothed": {"loss.label_smoothing": 0.05},
            "upright": {"augment.rotation": 0.0},
            "gray": {"data.color_constancy": "shades_of_gray"},
            "block-rates": {"optimizer.block_rate_decay": 0.85},
        },
        common={"model.alpha": 0.25, "data.image_size": 96, "data.cache": "disk", "train.epochs": 12},
    )
