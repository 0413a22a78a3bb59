"""Lists all settings. Without a recipe, trains on the bundled synthetic data set, as `sample` does.

    python train.py --config=configs/mobilenet.py
        Trains on the bundled synthetic data set, from random weights: about two minutes on two CPU cores.

    python train.py --config=configs/mobilenet.py:isic2018 --config.data.dir=DIR
        Trains with the recipe of the 2018 article on the real images. DIR is the unpacked download of the ISIC archive.

`--config.SECTION.KEY=VALUE` overrides any value below.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

RECIPES = {
    "sample": "Trains on the bundled synthetic data set, from random weights: about two minutes on two CPU cores.",
    "isic2018": "Trains with the recipe of the 2018 article on the real images, from ImageNet weights.",
}


def get_config(recipe: str = "sample") -> ConfigDict:
    """Returns the configuration of one of the two recipes, `sample` and `isic2018`.

    Raises:
        ValueError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"no recipe {recipe!r}: the recipes are {' and '.join(map(repr, RECIPES))}")
    config = ConfigDict()
    config.seed = 0  # seeds the split, the initial weights, the order of the images, the augmentation and dropout

    config.data = ConfigDict()
    # Layout of the images. 'isic2018': as downloaded from the ISIC archive. 'ham10000': the copy on Kaggle.
    # 'folders': one folder per class, optionally in train/ and val/. 'csv': a table with the columns path and label.
    # 'tfds': the data set that `mobilenet-jax prepare --to tfds` creates. 'sample': the bundled synthetic data
    # set, which needs no folder.
    config.data.source = "isic2018"
    config.data.dir = ""  # folder that holds the images and their tables; for 'csv' the table itself
    config.data.skip_damaged = False  # or True: leaves out images that cannot be read, and logs them
    config.data.image_size = 224  # height and width in pixels, at least 32
    config.data.resize = "stretch"  # or 'crop': keeps the proportions, and cuts the longer side at both ends
    config.data.color_constancy = "none"  # or 'shades_of_gray': removes the color cast of the light
    # Assignment of the images to training and validation. 'lesion': the subsets that the data give, such as train/
    # and val/; if they give none, all images of a lesion are in the same subset, and each class has the same fraction
    # of its lesions in validation. 'given': the subsets that the data give, or an error. 'fold:K/N': the same rule for
    # fold K of an N-fold cross-validation. 'all': all images are for training, none for validation. 'last:0.3',
    # 'first:0.3', 'per_class:0.3': the splits of the article, which separate images of one lesion. 'official',
    # 'official:test': the archive's own validation or test set. 'FILE.csv': the splits.csv of an earlier run.
    config.data.split = "lesion"
    config.data.val_fraction = 0.3  # fraction of the lesions in validation; applies to 'lesion' only
    config.data.sampling = "uniform"  # or 'balanced': training samples all classes equally often
    config.data.cache = "none"  # or 'memory', 'disk': decode each image once and keep it at image_size

    config.augment = ConfigDict()  # ranges of the random augmentation of training images
    config.augment.rotation = 30.0  # degrees; the angle is in [-rotation, rotation]
    config.augment.width_shift = 0.3  # fraction of the width; the shift is in [-width_shift, width_shift]
    config.augment.height_shift = 0.3  # fraction of the height; the shift is in [-height_shift, height_shift]
    config.augment.zoom = 0.3  # each axis is scaled by its own factor in [1 - zoom, 1 + zoom]
    config.augment.shear = 0.0  # degrees; the angle is in [-shear, shear]
    config.augment.horizontal_flip = True  # mirrors an image left to right with probability 0.5
    config.augment.vertical_flip = False  # mirrors an image top to bottom with probability 0.5
    config.augment.fill_mode = "nearest"  # fills pixels beyond the edge; or 'reflect', 'wrap', 'constant' (fill_value)
    config.augment.fill_value = 0.0  # from 0 to 255; applies to fill_mode 'constant' only
    config.augment.brightness = 0.0  # the factor is in [1 - brightness, 1 + brightness]
    config.augment.contrast = 0.0  # the factor is in [1 - contrast, 1 + contrast]
    config.augment.saturation = 0.0  # the factor is in [1 - saturation, 1 + saturation]
    config.augment.hue = 0.0  # fraction of the color circle; the turn is in [-hue, hue]
    # After the geometry above, a random part of the image is enlarged to the size of the image: its area is in
    # [crop_area, 1] of the image's, its width divided by its height in [1 / crop_ratio, crop_ratio]. A part that does
    # not fit is cut at the edges of the image. If both are 1, nothing is cropped.
    config.augment.crop_area = 1.0
    config.augment.crop_ratio = 1.0
    # Such as 2: each image is augmented by this number of random operations, of those above whose ranges are not 0.
    # Flips and crops do not count. 0 applies all.
    config.augment.operations = 0
    config.augment.mixup = 0.0  # such as 0.2: alpha of mixup, which blends pairs of images on the device
    config.augment.cutmix = 0.0  # such as 1.0: alpha of CutMix, which replaces a rectangle by that of another image
    config.augment.on_validation = False  # or True: augment validation images too, as the article's generator did
    config.augment.where = "host"  # OpenCV augments training images; or 'device': JAX does

    config.model = ConfigDict()
    # Width multiplier: a multiple of 1/32. Keras publishes ImageNet weights for 0.25, 0.5, 0.75 and 1.0.
    config.model.alpha = 1.0
    # 'article': two dense layers of 1024 units. 'article_bn': the same with batch normalization. 'small': global
    # average pooling and one dense layer, for mobile devices.
    config.model.head = "article"
    config.model.dropout = 0.5  # dropout rate of the head
    config.model.num_classes = 7  # number of classes of the data; 0 takes it from the data
    config.model.frozen_blocks = 0  # N freezes the first N of the 13 blocks and the layers before; 0 freezes nothing
    config.model.batch_norm = "frozen"  # frozen blocks keep their moving statistics; or 'train': they use the batch's
    config.model.batch_norm_momentum = 0.99  # fraction of the moving statistics that a step keeps; 0.9 adapts faster
    # The next three must match the initial weights. These are Keras's; an error names the values of other weights.
    config.model.batch_norm_epsilon = 0.001  # added to the variance
    config.model.padding = "keras"  # of convolutions of stride 2; 'same': TensorFlow's, 'symmetric': PyTorch's
    config.model.conv_head = False  # or True: a 1x1 convolution after the blocks, as in timm's mobilenetv1_100h

    config.regularizer = ConfigDict()  # factors as in Keras's l1 and l2, applied to the head's 1024-unit dense layers
    config.regularizer.kernel_l1 = 0.0
    config.regularizer.kernel_l2 = 0.0
    config.regularizer.activity_l1 = 0.0
    config.regularizer.activity_l2 = 0.0

    config.loss = ConfigDict()  # the loss is the cross-entropy
    # 'balanced': every class contributes equally to the loss. 'effective': weights by the effective number of examples,
    # which raise rare classes less.
    config.loss.class_weights = "none"
    config.loss.weights_from_epoch = 0  # number of first epochs without class_weights
    config.loss.label_smoothing = 0.0  # fraction of the target that is spread over all classes
    config.loss.focal_gamma = 0.0  # such as 2.0: the focal loss, which gives less weight to easy images
    config.loss.logit_adjustment = 0.0  # such as 1.0: factor of the log class frequencies, added to logits in training
    # The predictions.csv of an evaluation of another model on the training images: a teacher, whose probabilities are
    # mixed with the labels. A teacher that was trained on validation images makes validation metrics optimistic.
    config.loss.soft_labels = ""
    config.loss.soft_labels_weight = 0.5  # share of the teacher's probabilities

    config.init = ConfigDict()
    # Initial weights of the backbone: anything that `mobilenet-jax convert` reads, such as a file or hf://OWNER/NAME,
    # 'imagenet' for Keras's public file, or None for random weights (on the command line: --config.init.weights=None).
    config.init.weights = placeholder(str)  # a text or None
    config.init.weights = "imagenet"
    config.init.input_scaling = "1/255"  # scales pixels to [0, 1], as the article did; 'weights': to the weights' range

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or 'adadelta' (decay rate 0.95), 'adam', 'adamw'
    config.optimizer.learning_rate = 0.001
    config.optimizer.momentum = 0.9  # applies to 'sgd' only
    config.optimizer.schedule = "constant"  # 'cosine': decays to 0; 'plateau': drops when val_loss stops falling
    config.optimizer.warmup_epochs = 0  # epochs in which the learning rate rises linearly from 0
    config.optimizer.plateau_factor = 0.1  # multiplies the learning rate at each plateau
    config.optimizer.plateau_patience = 10  # epochs without a decrease of val_loss by 0.0001 until the rate drops
    config.optimizer.clip_norm = 0.0  # upper bound of the global norm of the gradients; 0 disables clipping
    config.optimizer.weight_decay = 0.0  # applied to kernels only; decoupled from the gradients with 'adamw'
    config.optimizer.backbone_rate_ratio = 1.0  # learning rate of the backbone divided by that of the head
    config.optimizer.block_rate_decay = 1.0  # learning rate of a block divided by that of the next block

    config.train = ConfigDict()
    config.train.batch_size = 32  # images per step over all devices together
    config.train.epochs = 100  # 0 chooses it from the number of training images
    config.train.precision = "float32"  # or 'bfloat16' for the computation of the layers; parameters stay float32
    # Such as 0.999: evaluates and saves a moving average of the parameters; 0 disables it. The decay rises to this
    # value as (1 + step) / (10 + step).
    config.train.ema_decay = 0.0
    # Number of training images, rounded down to whole batches but at least one, on which the statistics of batch
    # normalization are re-estimated before each evaluation. 0 evaluates with the moving statistics, as Keras does. An
    # epoch then costs that many forward passes more.
    config.train.reestimate_batch_norm = 0

    # The settings of Keras's callback. If it is enabled, its monitor chooses the best checkpoint too.
    config.early_stopping = ConfigDict()
    config.early_stopping.enabled = False
    config.early_stopping.monitor = "val_loss"  # name of a metric, such as 'val_balanced_accuracy'
    config.early_stopping.mode = "auto"  # or 'min', 'max': the direction of an improvement
    config.early_stopping.min_delta = 0.0  # smaller changes do not count as an improvement
    config.early_stopping.patience = 10  # epochs without an improvement before training stops
    config.early_stopping.baseline = placeholder(float)  # only values better than this one reset the patience
    config.early_stopping.start_from_epoch = 0  # number of first epochs that are ignored

    if recipe == "sample":  # sized for two CPU cores; random weights need larger steps than trained ones
        config.data.source = "sample"
        config.data.image_size = 64
        config.model.alpha = 0.25
        config.model.head = "small"
        config.model.dropout = 0.2
        config.init.weights = None
        config.optimizer.learning_rate = 0.01
        config.train.epochs = 60
        # Without these two, the moving statistics lag behind the weights, and balanced accuracy jumps between 0.22 and
        # 0.97 from epoch 20 on. In the last epoch it is 0.93 with re-estimation alone and 0.99 with both.
        config.train.reestimate_batch_norm = 1000  # 544 of the 558 training images: whole batches
        config.train.ema_decay = 0.999
    return config.lock()
