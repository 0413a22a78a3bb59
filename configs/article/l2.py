"""The article's L2 regularization: l2(0.01) on the kernels and activities of both dense layers, with batch norm.

    python train.py --config=configs/article/l2.py --config.data.dir=DIR

The penalty starts far above the cross-entropy. The metric `train_objective` is their sum, `train_loss` is the
cross-entropy alone. Sums over activities are divided by the batch size, as in today's Keras but not in the Keras of
2018.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.717 in training and 0.624 in validation, balanced
accuracy 0.275 and 0.145. In validation, the model predicts NV for almost all images. The table of all experiments is in
benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """Returns the experiment with batch normalization, plus the L2 regularizer."""
    config = batch_norm()
    config.regularizer.kernel_l2 = 0.01
    config.regularizer.activity_l2 = 0.01
    return config
