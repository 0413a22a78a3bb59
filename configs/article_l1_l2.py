"""L1 and L2 together: l1_l2(0.01, 0.01) on kernels and on activities of both dense layers.


python train.py --config=configs/article_l1_l2.py --config.data.dir=DIR


"""

from ml_collections import ConfigDict

from configs.article_batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """The head with batch normalisation, regularised."""
    config = batch_norm()
    for name in config.regularizer:
        config.regularizer[name] = 0.01
    return config
