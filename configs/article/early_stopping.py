"""The article's early stopping: it ends when the validation loss has not fallen for 10 epochs.

    python train.py --config=configs/article/early_stopping.py --config.data.dir=DIR

The article shows its curves and draws no conclusion. The best checkpoint is then that of the lowest loss.

To expect: what the original gives, to the bit, until it stops, which cannot be before epoch 11. At alpha 0.25 and 128
x 128 the validation loss still falls in the tenth epoch. The table of all is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """The original with early stopping."""
    config = original()
    config.early_stopping.enabled = True
    return config
