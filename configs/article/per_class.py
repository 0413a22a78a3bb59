"""The article's third split: Keras's `validation_split=0.3`, the first 30% of each class by file name.

    python train.py --config=configs/article/per_class.py --config.data.dir=DIR

All classes have the same share in validation, unlike in the splits by the order of the table. Images of the same lesion
are still in both subsets.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.729 in training and 0.754 in validation, balanced
accuracy 0.386 and 0.469. Validation runs without dropout and is slightly ahead of training. The table of all
experiments is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """Returns the original experiment with the other split."""
    config = original()
    config.data.split = "per_class:0.3"
    return config
