"""The article's L2 regularization: l2(0.01) on kernels and activities of both dense layers, with batch norm.

    python train.py --config=configs/article/l2.py --config.data.dir=DIR

The penalty starts far above the cross-entropy: `train_objective` is their sum, `train_loss` the latter alone. Sums over
activities are divided by the batch size, as in today's Keras and not in that of 2018.

To expect, after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.717 in training, 0.624 in validation; balanced
accuracy 0.275 and 0.145. The penalty outweighs the cross-entropy; validation falls back to calling almost everything
NV. The table of all is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """The head with batch normalization, regularized."""
    config = batch_norm()
    config.regularizer.kernel_l2 = 0.01
    config.regularizer.activity_l2 = 0.01
    return config
