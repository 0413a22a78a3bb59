"""Trains from a disk cache with augmentation on the device, which needs no TensorFlow once the cache exists.

    python -m tests.helpers.cached_run DATA WORKDIR

blocks TensorFlow and trains.
"""

import sys

from configs.mobilenet import get_config
from mobilenet_jax.training.loop import train_and_evaluate


def train_from_a_disk_cache(data: str, workdir: str) -> None:
    """Trains for one epoch."""
    config = get_config("isic2018")
    config.update_from_flattened_dict({
        "data.dir": data, "data.image_size": 32, "data.cache": "disk", "augment.where": "device",
        "model.alpha": 0.25, "model.head": "small", "train.batch_size": 8, "train.epochs": 1, "init.weights": None,
    })  # fmt: skip
    train_and_evaluate(config, workdir)


if __name__ == "__main__":
    sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # type: ignore[assignment]
    train_from_a_disk_cache(*sys.argv[1:])
