"""L1 regularisation as the article tried it: l1(0.01) on kernels and on activities of both dense layers.

    python train.py --config=configs/article_l1.py --config.data.dir=DIR

The article names L1 beside L2 and shows no code of it; the factor is that of its L2.
"""

from ml_collections import ConfigDict

from configs.article_batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """The head with batch normalisation, regularised."""
    config = batch_norm()
    config.regularizer.kernel_l1 = 0.01
    config.regularizer.activity_l1 = 0.01
    return config
