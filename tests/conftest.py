"""Strict settings for all tests, and the data some of them need."""

import csv
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":  # compiling is most of the time of fast tests
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"

import jax
import numpy as np
import pytest
from PIL import Image

jax.config.update("jax_numpy_rank_promotion", "raise")


def with_devices(number: int) -> dict[str, str]:
    """The environment of a process that is to have so many devices."""
    count = f"--xla_force_host_platform_device_count={number}"
    return {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}"}


ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


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
def real_photographs() -> list[Path]:
    """A hundred of the dermoscopic images of ISIC 2018, 200 x 150 pixels."""
    return sorted(_shared("data/isic2018_task3").glob("*/*.jpg"))[:100]


@pytest.fixture
def tiny_isic(tmp_path) -> Path:
    """42 images of 21 lesions, three lesions a class, of noise around a colour for each class."""
    return write_isic(tmp_path / "isic")


def write_isic(folder: Path, *, one: str = "1.0", zero: str = "0.0") -> Path:
    """Writes a small data set in the archive's layout, two images a lesion."""
    from input_pipeline.sources.isic import CLASS_NAMES

    images = folder / "ISIC2018_Task3_Training_Input"
    truth = folder / "ISIC2018_Task3_Training_GroundTruth"
    images.mkdir(parents=True)
    truth.mkdir()
    rng = np.random.default_rng(0)
    rows, groups, number = [], [], 0
    for label in range(7):
        colour = np.array([40 + 30 * label, 250 - 30 * label, 128])
        for lesion in range(3):
            for _ in range(2):
                name = f"ISIC_{number:07d}"
                pixels = np.clip(colour + rng.normal(0, 10, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(images / f"{name}.jpg")
                rows.append(",".join([name, *(one if i == label else zero for i in range(7))]))
                groups.append(f"{name},L{label}{lesion},histopathology")
                number += 1
    header = ",".join(["image", *CLASS_NAMES])
    (truth / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "\n".join(["image,lesion_id,diagnosis_confirm_type", *groups]) + "\n"
    )
    return folder


def add_official_sets(folder: Path) -> Path:
    """Adds the archive's validation and test sets to `write_isic`'s: the same images under names of their own."""
    for number, part in enumerate(("Validation", "Test"), start=1):
        for path in sorted(folder.glob("*Training_Input/*.jpg")):
            name = path.name.replace("ISIC_0", f"ISIC_{number}")
            copy = folder / f"ISIC2018_Task3_{part}_Input" / name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        [truth] = folder.glob("*Training_GroundTruth/*.csv")
        other = folder / str(truth.relative_to(folder)).replace("Training", part)
        other.parent.mkdir()
        other.write_text(truth.read_text().replace("ISIC_0", f"ISIC_{number}"))
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the `mobilenet-jax` command; gives its status, and what it wrote to stdout and stderr."""

    from mobilenet_jax.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mobilenet-jax", *map(str, arguments)])
        try:
            main()
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
    from mobilenet_jax.training.setup import train_and_evaluate
    from tests.mobilenet_jax.training.test_loop import _config

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train_and_evaluate(_config(data, train__epochs=1), workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def table(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
