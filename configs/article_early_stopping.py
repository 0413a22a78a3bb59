"""The article's early stopping: it ends when the validation loss has not fallen for 10 epochs.


python train.py --config=configs/article_early_stopping.py --config.data.dir=DIR


"""

from ml_collections import ConfigDict

from configs.article_original import get_config as original


def get_config() -> ConfigDict:
    """The original with early stopping."""
    config = original()
    config.early_stopping.enabled = True
    return config
