"""The public ImageNet weights, found in the cache or downloaded."""

import errno
import hashlib
import os

import pytest
from requests.exceptions import InvalidProxyURL

from mobilenet_jax.errors import WeightsError
from mobilenet_jax.weights.imagenet import _SHA256, find_imagenet_weights


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


def test_a_file_with_another_content_is_refused(cache, monkeypatch):
    def download(url, *, known_hash, **options):
        assert known_hash == "dbdb03ee2a22fd895301636cd328b234bb3a9952358f436d82f46b81e0d5b0bf"
        raise ValueError("SHA256 hash of downloaded file (x.h5) does not match the known hash: expected a but got b.")

    monkeypatch.setattr("pooch.retrieve", download)
    with pytest.raises(WeightsError, match="does not match its known SHA-256: SHA256 hash of downloaded"):
        find_imagenet_weights(0.25, 224)


def test_a_file_that_was_put_into_the_cache_is_compared_with_its_hash(cache, monkeypatch):
    monkeypatch.setattr("pooch.retrieve", lambda *args, **options: pytest.fail("downloaded"))
    path = cache / "mobilenet-jax" / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"changed")
    try:
        with pytest.raises(WeightsError, match="does not have its known SHA-256: delete it and try again"):
            find_imagenet_weights(0.25, 224)
    finally:
        path.unlink()


def test_a_proxy_that_is_not_valid_is_a_failed_download(cache, monkeypatch):
    def fail(*args, **options):
        raise InvalidProxyURL("Please check proxy URL. It is malformed and could be missing the host.")

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(WeightsError, match="cannot download mobilenet_5_0_224_tf_no_top.h5"):
        find_imagenet_weights(0.5, 224)


def test_a_full_disk_is_not_reported_as_a_missing_network(cache, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(WeightsError, match=r"cannot write .*mobilenet_5_0_224_tf_no_top.h5: No space left on device"):
        find_imagenet_weights(0.5, 224)


def test_the_known_hash_is_that_of_the_published_file(weights):
    assert hashlib.sha256(weights[0.25].read_bytes()).hexdigest() == _SHA256[weights[0.25].name]
