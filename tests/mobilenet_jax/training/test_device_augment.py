import numpy as np
import pytest

from input_pipeline.augment import Augmentation
from input_pipeline.batches import BatchOptions, make_train_batches
from input_pipeline.sources.isic import read_isic
from mobilenet_jax.training.device_augment import make_device_augment

GEOMETRY = {
    "rotation": 30,
    "width_shift": 0.3,
    "height_shift": 0.3,
    "zoom": 0.3,
    "shear": 20,
    "horizontal_flip": True,
    "vertical_flip": True,
}
COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "wrap", "constant"])
@pytest.mark.parametrize("colors", [{}, COLORS])
def test_the_device_augments_images_like_the_host(real_data, fill_mode, colors):
    augmentation = Augmentation(**GEOMETRY, **colors, fill_mode=fill_mode, fill_value=90)
    examples, augment = read_isic(real_data), make_device_augment(augmentation, (-1.0, 1.0))
    options = BatchOptions(image_size=64, input_scaling=(-1.0, 1.0), batch_size=9, seed=0)
    host, device = (
        make_train_batches(examples, augmentation, options, first_step=0, last_step=3, augment_on=augment_on)
        for augment_on in ("host", "device")
    )
    for expected, batch in zip(host, device, strict=True):
        augmented = augment(batch)
        assert augmented.keys() == expected.keys()
        np.testing.assert_array_equal(augmented["label"], expected["label"])
        np.testing.assert_array_equal(augmented["index"], expected["index"])
        assert np.abs(np.asarray(augmented["image"]) - expected["image"]).max() < 1e-4  # in a range of 2
        assert expected["image"].std() > 0.1
