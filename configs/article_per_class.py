"""The article's third split: Keras's `validation_split=0.3`, the first 30% of each class by file name.

    python train.py --config=configs/article_per_class.py --config.data.dir=DIR

All classes have the same share in validation, which the table's order does not give; lesions still cross.
"""

from ml_collections import ConfigDict

from configs.article_original import get_config as original


def get_config() -> ConfigDict:
    """The original with the other split."""
    config = original()
    config.data.split = "per_class:0.3"
    return config
