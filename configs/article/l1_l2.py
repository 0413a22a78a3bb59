"""L1 and L2 together: l1_l2(0.01, 0.01) on kernels and on activities of both dense layers.

    python train.py --config=configs/article/l1_l2.py --config.data.dir=DIR

The article names them together and shows no code; the factors are those of its L2.

To expect, after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.700 in training, 0.629 in validation; balanced
accuracy 0.209 and 0.153. The penalty outweighs the cross-entropy; validation stays near guessing. The table of all is
in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """The head with batch normalization, regularized."""
    config = batch_norm()
    for name in config.regularizer:
        config.regularizer[name] = 0.01
    return config
