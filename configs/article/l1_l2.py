"""L1 and L2 regularization together: l1_l2(0.01, 0.01) on the kernels and activities of both dense layers.

    python train.py --config=configs/article/l1_l2.py --config.data.dir=DIR

The article names them together and shows no code for it. Both factors are those of its L2.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.700 in training and 0.629 in validation, balanced
accuracy 0.209 and 0.153. The balanced accuracy of validation stays near chance. The table of all experiments is in
benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.batch_norm import get_config as batch_norm


def get_config() -> ConfigDict:
    """Returns the experiment with batch normalization, plus both regularizers."""
    config = batch_norm()
    for name in config.regularizer:
        config.regularizer[name] = 0.01
    return config
