"""Fine-tunes MobileNet v1 to tell seven kinds of skin lesion apart.

    python train.py --config=configs/mobilenet.py
        the embedded sample of drawn lesions, from random weights: about two minutes on two CPU cores

    python train.py --config=configs/mobilenet.py:isic2018 --config.data.dir=DIR
        the recipe of the 2018 article on the real images; DIR is the ISIC archive's download, unpacked

Any value below is changed by `--config.SECTION.KEY=VALUE`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(recipe: str = "sample") -> ConfigDict:
    """The configuration of one of two recipes, `sample` and `isic2018`."""
    if recipe not in ("sample", "isic2018"):
        raise ValueError(f"configs/mobilenet.py:{recipe}: the recipes are 'sample' and 'isic2018'")
    config = ConfigDict()
    config.seed = 0  # of the split, the weights, the order, the augmentation and dropout

    config.data = ConfigDict()
    # 'isic2018': the archive's layout; 'ham10000': that of Kaggle's copy; 'folders': a folder a class; 'tfds': what
    # `mobilenet-jax prepare --to tfds` made; 'sample': the drawn lesions, which need no folder.
    config.data.source = "isic2018"
    config.data.dir = ""  # the folder that holds them
    config.data.image_size = 224  # pixels, height and width; 32 or more
    # 'lesion': all images of a lesion on one side, each class in the same share. 'fold:K/N': the same, for
    # cross-validation. 'last:0.3', 'first:0.3', 'per_class:0.3': the article's, which part lesions. 'official',
    # 'official:test': the archive's own validation or test set. Or a splits.csv.
    config.data.split = "lesion"
    config.data.val_fraction = 0.3  # of the lesions, for 'lesion'
    config.data.sampling = "uniform"  # or 'balanced': all classes come equally often in training
    config.data.cache = "none"  # or 'memory' or 'disk': decode each image once and keep it, at image_size

    config.augment = ConfigDict()  # of training images
    config.augment.rotation = 30.0  # degrees to either side
    config.augment.width_shift = 0.3  # share of the width, to either side
    config.augment.height_shift = 0.3  # share of the height, up and down
    config.augment.zoom = 0.3  # each axis by its own factor from 1 - zoom to 1 + zoom
    config.augment.shear = 0.0  # degrees to either side
    config.augment.horizontal_flip = True
    config.augment.vertical_flip = False
    config.augment.fill_mode = "nearest"  # beyond the edge; or 'reflect', 'wrap', 'constant' (fill_value, 0 to 255)
    config.augment.fill_value = 0.0
    config.augment.brightness = 0.0  # a factor from 1 - brightness to 1 + brightness; so contrast and saturation
    config.augment.contrast = 0.0
    config.augment.saturation = 0.0
    config.augment.hue = 0.0  # share of the color circle, to either side
    config.augment.on_validation = False  # the article's generator augmented validation images too
    config.augment.where = "host"  # training images are changed by TensorFlow, or by JAX on the 'device'

    config.model = ConfigDict()
    config.model.alpha = 1.0  # the width: 0.25, 0.5, 0.75 or 1.0
    # 'article': two dense layers of 1024; 'article_bn': with batch normalization; 'small': global average pooling, for
    # phones.
    config.model.head = "article"
    config.model.dropout = 0.5
    config.model.num_classes = 7
    config.model.frozen_blocks = 0  # of 13: the stem and so many first blocks stay as they are; 13 trains only the head
    config.model.batch_norm = "frozen"  # of frozen blocks: keeps its statistics, or goes on estimating: 'train'

    config.regularizer = ConfigDict()  # of the dense layers of 1024, as Keras's, such as l2(0.01)
    config.regularizer.kernel_l1 = 0.0
    config.regularizer.kernel_l2 = 0.0
    config.regularizer.activity_l1 = 0.0
    config.regularizer.activity_l2 = 0.0

    config.loss = ConfigDict()  # cross-entropy
    config.loss.class_weights = "none"  # or 'balanced': each class weighs the same
    config.loss.label_smoothing = 0.0

    config.init = ConfigDict()
    # Whatever `mobilenet-jax convert` reads (only the backbone is taken), 'imagenet' for Keras's public file, or None
    # for random weights (on the command line: --config.init.weights=None).
    config.init.weights = placeholder(str)
    config.init.weights = "imagenet"
    config.init.input_scaling = "1/255"  # pixels to [0, 1] as in the article; 'weights': as those were trained, [-1, 1]

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or 'adadelta' (decay rate 0.95), which takes no momentum
    config.optimizer.learning_rate = 0.001
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "constant"  # 'cosine': falls to 0 at the end; 'plateau': falls where val_loss does not
    config.optimizer.warmup_epochs = 0
    config.optimizer.plateau_factor = 0.1
    config.optimizer.plateau_patience = 10  # epochs
    config.optimizer.clip_norm = 0.0  # of all gradients together; 0 clips none
    config.optimizer.weight_decay = 0.0  # of kernels

    config.train = ConfigDict()
    config.train.batch_size = 32  # of all devices together
    config.train.epochs = 100
    config.train.precision = "float32"  # or 'bfloat16', in which layers compute; parameters stay float32
    config.train.ema_decay = 0.0  # such as 0.999: a moving average of the parameters is evaluated and kept

    config.early_stopping = ConfigDict()  # as Keras's callback; the best checkpoint is then the best by its monitor
    config.early_stopping.enabled = False
    config.early_stopping.monitor = "val_loss"
    config.early_stopping.mode = "auto"  # or 'min', 'max'
    config.early_stopping.min_delta = 0.0
    config.early_stopping.patience = 10  # epochs
    config.early_stopping.baseline = placeholder(float)
    config.early_stopping.start_from_epoch = 0

    if recipe == "sample":  # sized for two CPU cores; random weights take larger steps than trained ones
        config.data.source = "sample"
        config.data.image_size = 64
        config.model.alpha = 0.25
        config.model.head = "small"
        config.model.dropout = 0.2
        config.init.weights = None
        config.optimizer.learning_rate = 0.01
        config.train.epochs = 60
    return config.lock()
