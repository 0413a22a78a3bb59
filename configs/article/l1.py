"""L1 regularization as the article mentions it: l1(0.01) on the kernels and activities of both dense layers.

    python train.py --config=configs/article/l1.py --config.data.dir=DIR

The article names L1 next to L2 and shows no code for it. The factor is that of its L2.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.699 in training and 0.617 in validation, balanced
accuracy 0.219 and 0.151. The balanced accuracy of validation stays near chance. The table of all experiments is in
benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """Returns the experiment with batch normalization, plus the L1 regularizer."""
    config = batch_norm()
    config.regularizer.kernel_l1 = 0.01
    config.regularizer.activity_l1 = 0.01
    return config
