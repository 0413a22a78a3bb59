"""Trains a small network on the dermoscopic images of ISIC 2018, to be exported to a phone or a browser.

    python train.py --config=configs/phone.py --config.data.dir=DIR --workdir=WORKDIR
    mobilenet-jax export WORKDIR model.tflite --quantize=int8

DIR is the unpacked download of the ISIC archive. `--config.model.alpha=1.0 --config.data.image_size=160` trains a
network that is more accurate and takes 15 times as long per image. The ImageNet weights are downloaded once.
"""

from ml_collections import ConfigDict

from configs.finetune import get_config as get_base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = get_base().unlock()
    config.data.source = "isic2018"

    config.optimizer.learning_rate = 0.002
    config.optimizer.weight_decay = 0.02
    config.loss.label_smoothing = 0.05
    config.augment.brightness = 0.1
    config.augment.saturation = 0.1

    config.train.batch_size = 64
    config.train.epochs = 20
    return config.lock()
