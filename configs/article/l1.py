"""L1 regularization as the article tried it: l1(0.01) on kernels and on activities of both dense layers.

    python train.py --config=configs/article/l1.py --config.data.dir=DIR

The article names L1 beside L2 and shows no code of it; the factor is that of its L2.

To expect, after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.699 in training, 0.617 in validation; balanced
accuracy 0.219 and 0.151. The penalty outweighs the cross-entropy; validation swings and stays near guessing. The
table of all is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """The head with batch normalization, regularized."""
    config = batch_norm()
    config.regularizer.kernel_l1 = 0.01
    config.regularizer.activity_l1 = 0.01
    return config
