"""Trains a small network on the dermoscopic images of ISIC 2018, to be exported to a phone or a browser.

    python train.py --config=configs/phone.py --config.data.dir=DIR --workdir=WORKDIR
    mobilenet-jax export WORKDIR model.tflite --quantize=int8

DIR is the unpacked download of the ISIC archive. `--config.model.alpha=1.0 --config.data.image_size=160` trains a
network that is more accurate and takes 16 times as long per image in float32. The ImageNet weights are downloaded once.
The effects of the settings, and the accuracy of the network, are in docs/recipe.md.
"""

from ml_collections import ConfigDict

from configs.finetune import get_config as get_base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = get_base()
    config.data.source = "isic2018"
    config.data.resize = "crop"  # frames of 4:3 and square crops of them give the same pixels

    config.optimizer.learning_rate = 0.002
    config.optimizer.weight_decay = 0.02
    config.augment.brightness = 0.1
    config.augment.saturation = 0.1

    config.train.batch_size = 64
    config.train.epochs = 20
    return config
