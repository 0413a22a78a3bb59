"""The article's second split: the first 30% of the table for validation.

    python train.py --config=configs/article_first.py --config.data.dir=DIR

The article tried it against overfitting and says of no split that it helped.
"""

from ml_collections import ConfigDict

from configs.article_original import get_config as original


def get_config() -> ConfigDict:
    """The original with the other split."""
    config = original()
    config.data.split = "first:0.3"
    return config
