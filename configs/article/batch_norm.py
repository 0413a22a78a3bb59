"""The article's batch normalization in the head: dense, batch normalization, ReLU, dropout, twice.

    python train.py --config=configs/article/batch_norm.py --config.data.dir=DIR

The article tried it against overfitting, shows its curves and draws no conclusion.

To expect, after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.752 in training, 0.638 in validation; balanced
accuracy 0.426 and 0.471. It learns the training set faster, and its validation loss swings from epoch to epoch. The
table of all is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """The original with the other head."""
    config = original()
    config.model.head = "article_bn"
    return config
