"""The public ImageNet weights, found in the cache or downloaded."""

import pytest

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.imagenet import find_imagenet_weights


def test_files_are_found_in_the_cache_or_the_error_names_their_folder(cache, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("pooch.retrieve", fail)
    folder = cache / "mobilenet-jax" / "weights"
    with pytest.raises(WeightsError) as error:
        find_imagenet_weights(0.75, 160)
    assert "mobilenet_7_5_160_tf_no_top.h5" in str(error.value)
    assert str(folder) in str(error.value)
    (folder / "mobilenet_7_5_224_tf_no_top.h5").touch()
    assert find_imagenet_weights(0.75, 300) == folder / "mobilenet_7_5_224_tf_no_top.h5", "other sizes start from 224"
