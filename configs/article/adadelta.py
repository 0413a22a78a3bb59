"""The article's other optimizer: Adadelta (learning rate 1.0, decay 0.95, Keras's epsilon), batches of 64, 50 epochs.

    python train.py --config=configs/article/adadelta.py --config.data.dir=DIR

The article shows its curves and draws no conclusion.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.769 in training and 0.646 in validation, balanced
accuracy 0.457 and 0.241. The training accuracy is the highest of all experiments, and the validation loss rises and
falls from epoch to epoch. The table of all experiments is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.article.original import get_config as original


def get_config() -> ConfigDict:
    """Returns the original experiment with the other optimizer."""
    config = original()
    config.optimizer.name = "adadelta"
    config.optimizer.learning_rate = 1.0
    config.train.batch_size = 64
    config.train.epochs = 50
    return config
