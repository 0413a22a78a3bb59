import numpy as np
import pytest

from input_pipeline.augment import Augmentation
from input_pipeline.batches import make_train_batches
from input_pipeline.sources.isic import read_isic
from mobilenet_jax.training.device_augment import make_device_augment

ALL = {"rotation": 30, "width_shift": 0.3, "height_shift": 0.3, "zoom": 0.3, "shear": 20, "horizontal_flip": True,
       "vertical_flip": True}  # fmt: skip
COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "wrap", "constant"])
@pytest.mark.parametrize("colors", [{}, COLORS])
def test_the_device_changes_images_as_the_host_does(real_data, fill_mode, colors):
    augmentation = Augmentation(**ALL, **colors, fill_mode=fill_mode, fill_value=90)
    options = {"image_size": 64, "scaling": (-1.0, 1.0), "batch_size": 9, "seed": 0, "first_step": 0, "last_step": 3}
    examples, augment = read_isic(real_data), make_device_augment(augmentation, (-1.0, 1.0))
    host = make_train_batches(examples, augmentation, **options)
    device = make_train_batches(examples, augmentation, **options, where="device")
    for expected, batch in zip(host, device, strict=True):
        found = augment(batch)
        assert found.keys() == expected.keys()
        np.testing.assert_array_equal(found["label"], expected["label"])
        np.testing.assert_array_equal(found["index"], expected["index"])
        assert np.abs(np.asarray(found["image"]) - expected["image"]).max() < 1e-4  # of a scale of 2
        assert expected["image"].std() > 0.1
