"""Strict settings for all tests, and the data some of them need."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":  # compiling is most of the time of fast tests
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

import jax
import pytest
from PIL import Image

from tests.helpers.datasets import write_isic
from tests.helpers.runs import SHARED, make_config

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """A cache of its own, so that no test depends on, or changes, the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    # Runs that start anew compile the same steps again and again; half of the suite's time would go into that.
    beside = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(beside / "compiled")  # one for all workers
    jax.config.update("jax_compilation_cache_dir", str(beside / "compiled"))
    return folder


def _shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs {SHARED / path}, which is not part of the repository")
    return SHARED / path


@pytest.fixture(scope="session")
def weights() -> dict[float, Path]:
    """Keras's ImageNet weights by alpha."""
    names = {0.25: "mobilenet_2_5_224_tf_no_top.h5", 1.0: "mobilenet_1_0_224_tf_no_top.h5"}
    return {alpha: _shared(f"weights/{name}") for alpha, name in names.items()}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """27 dermoscopic images of 600 x 450 pixels in the archive's layout."""
    return _shared("data/isic2018_task3_600x450")


@pytest.fixture(scope="session")
def real_images(real_data) -> list[Image.Image]:
    """Four of them."""
    return [Image.open(p) for p in sorted(real_data.glob("*/*.jpg"))[:4]]


@pytest.fixture(scope="session")
def isic2018() -> Path:
    """The 10,015 training images of ISIC 2018 Task 3, 200 x 150 pixels, in the archive's layout."""
    return _shared("data/isic2018_task3")


@pytest.fixture(scope="session")
def real_photographs(isic2018) -> list[Path]:
    """A hundred of them."""
    return sorted(isic2018.glob("*/*.jpg"))[:100]


@pytest.fixture
def tiny_isic(tmp_path) -> Path:
    """42 images of 21 lesions, three lesions a class, of noise around a color for each class."""
    return write_isic(tmp_path / "isic")


@pytest.fixture
def run(capsys):
    """Runs the `mobilenet-jax` command; gives its status, and what it wrote to stdout and stderr."""

    from mobilenet_jax.cli.main import main

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """`write_isic`'s data set."""
    return write_isic(tmp_path_factory.mktemp("data") / "isic")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """The workdir of a run of one epoch."""
    from mobilenet_jax.training.loop import train_and_evaluate

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train_and_evaluate(make_config(data, train__epochs=1), workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")
