"""The article's batch normalisation in the head: dense, batch normalisation, ReLU, dropout, twice.


python train.py --config=configs/article_batch_norm.py --config.data.dir=DIR


"""

from ml_collections import ConfigDict

from configs.article_original import get_config as original


def get_config() -> ConfigDict:
    """The original with the other head."""
    config = original()
    config.model.head = "article_bn"
    return config
