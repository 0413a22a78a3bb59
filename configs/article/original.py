"""The article's first experiment: the last 30% of the table are the validation set, which is augmented too.

    python train.py --config=configs/article/original.py --config.data.dir=DIR

The article trains for 100 epochs with SGD (learning rate 0.001, momentum 0.9) in batches of 32 at 224 x 224. Its
training accuracy rises while its validation accuracy does not: "we may suffer overfitting". Its split puts images of
the same lesion in both subsets, which hides a part of the overfitting.

Expected after 7 epochs at alpha 0.25 and 128 x 128: accuracy 0.751 in training and 0.687 in validation, balanced
accuracy 0.403 and 0.396. Most of the gap comes from the split: the last 30% of the table have other class shares, and
the balanced accuracies hardly differ. The table of all experiments is in benchmarks/results/article.md.
"""

from ml_collections import ConfigDict

from configs.mobilenet import get_config as recipe


def get_config() -> ConfigDict:
    """Returns the article's recipe with its first split."""
    config = recipe("isic2018")
    config.data.split = "last:0.3"
    config.augment.on_validation = True
    return config
