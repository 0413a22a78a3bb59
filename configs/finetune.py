"""Fine-tunes MobileNet v1 on your own images: the recipe to start from.

    python train.py --config=configs/finetune.py --config.data.dir=DIR

DIR holds one folder of images per class; `--config.data.source=SOURCE` reads another layout. The ImageNet weights are
downloaded once. On a GPU, a larger network is affordable: `--config.model.alpha=1.0 --config.data.image_size=224`.
"""

from ml_collections import ConfigDict

from configs.mobilenet import get_config as get_base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = get_base("isic2018")
    config.data.source = "folders"
    config.data.image_size = 128
    config.data.cache = "memory"  # decoding images again in every epoch takes longer than training on them

    config.model.num_classes = 0  # taken from the data
    config.model.alpha = 0.25
    # Global average pooling and one dense layer: with few images the article's head of millions overfits.
    config.model.head = "small"
    config.model.dropout = 0.2
    config.init.input_scaling = "weights"  # pretrained features are worse with another range of pixels

    # Without a correction, rare classes are hardly ever predicted. With the log class frequencies added to the logits
    # in the loss, the probabilities are those of equally frequent classes. Sampling all classes equally often instead
    # repeats the rare images until the network memorizes them.
    config.loss.logit_adjustment = 1.0

    # AdamW needs no tuning of its rate to the size of the data. The warm-up keeps the first gradients of the random
    # head from destroying the features, and the cosine ends with weights that no longer jump between epochs.
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.001
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup_epochs = 2
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0

    # An image from a microscope, a dermatoscope or a drone has no up and down. Where objects stand upright, use
    # rotation=20 and vertical_flip=False. Small shifts and zooms keep the object in the image.
    config.augment.rotation = 180.0
    config.augment.vertical_flip = True
    config.augment.width_shift = 0.1
    config.augment.height_shift = 0.1
    config.augment.zoom = 0.1
    config.augment.fill_mode = "reflect"

    config.train.epochs = 0  # about 1,500 steps, but 15 to 60 epochs: a small data set needs more epochs
    config.train.batch_size = 16  # with 32, an epoch on 50 images is a single step
    # The moving statistics lag behind the weights on small data. Wu and Johnson 2021 (arXiv:2105.07576) find 1,000 to
    # 10,000 images enough for an estimate.
    config.train.reestimate_batch_norm = 1000
    return config
