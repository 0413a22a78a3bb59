"""Trains the network of alpha 1.0 on the dermoscopic images of ISIC 2018, for the test set of the challenge.

    python train.py --config=configs/isic.py --config.data.dir=DIR --workdir=WORKDIR
    mobilenet-jax predict WORKDIR TEST_IMAGES --tta=8 --format=isic --out=predictions.csv

DIR is the unpacked download of the ISIC archive. All images are for training, so the run has no validation metrics:
`mobilenet-jax cross-validate --config=configs/isic.py --config.data.dir=DIR --out OUT` estimates them. It is the recipe
of configs/phone.py with a larger network and larger images; docs/recipe.md has its accuracy.
"""

from ml_collections import ConfigDict

from configs.phone import get_config as get_base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = get_base()
    config.data.split = "all"
    config.data.image_size = 160
    config.model.alpha = 1.0
    return config
