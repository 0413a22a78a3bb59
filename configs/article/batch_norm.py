"""The article's batch normalization in the head: dense layer, batch normalization, ReLU and dropout, twice.

    python train.py --config=configs/article/batch_norm.py --config.data.dir=DIR

The article tried it to reduce overfitting, and draws no conclusion.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.752 in training and 0.638 in validation, balanced
accuracy 0.426 and 0.471. The training accuracy is that of the original experiment, the validation accuracy is lower.
The table of all experiments is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """Returns the original experiment with the other head."""
    config = original()
    config.model.head = "article_bn"
    return config
