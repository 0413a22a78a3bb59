"""The article's early stopping: training ends when the validation loss has not fallen for 10 epochs.

    python train.py --config=configs/article/early_stopping.py --config.data.dir=DIR

The article shows its curves and draws no conclusion. The best checkpoint is the one with the lowest validation loss.

Expected: the results of the original experiment, bit for bit, until training stops. It cannot stop before epoch 11. The
table of all experiments is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """Returns the original experiment with early stopping."""
    config = original()
    config.early_stopping.enabled = True
    return config
