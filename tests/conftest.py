"""Strict settings for all tests, and the fixtures that several test files share."""

import contextlib
import gc
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":  # compiling is most of the time of fast tests
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # which line made an operation is not read in tests

import jax
import pytest
from PIL import Image

from configs.mobilenet import get_config
from tests.helpers.datasets import write_isic
from tests.helpers.hub_server import HubServer, connect
from tests.helpers.runs import SHARED, make_config

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 100)  # tracing makes many objects: with Python's defaults, collecting takes a tenth of it


def pytest_collection_finish() -> None:
    """Leaves the millions of objects of imported modules out of later collections."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Redirects the cache to a folder of the tests, so that they neither depend on the user's cache nor change it."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    # Runs and processes compile the same steps; without a shared cache that is half of the suite's time.
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    settings = {"jax_compilation_cache_dir": str(shared / "compiled"), "jax_persistent_cache_min_compile_time_secs": 0}
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)  # for processes that tests start
        jax.config.update(name, value)
    return folder


@pytest.fixture(scope="session", autouse=True)
def share_train_steps() -> Iterator[None]:
    """Shares the jitted train steps of equal configurations: tracing one takes most of the time of a small run."""
    from mobilenet_jax.training import loop

    build_program, known, plain = loop.build_program, {}, get_config("isic2018")

    def build(config, labels, steps_per_epoch, **options):
        program, *others = build_program(config, labels, steps_per_epoch, **options)
        settings = config.to_dict()
        for section in ("data", "init", "early_stopping"):
            del settings[section]
        del settings["augment"]["where"], settings["train"]["reestimate_batch_norm"]
        if config.loss == plain.loss and config.optimizer == plain.optimizer:  # independent of data and length
            del settings["train"]["epochs"]
        else:
            settings["data"] = labels.tolist(), steps_per_epoch
        key = json.dumps(settings, sort_keys=True)
        return program._replace(train_step=known.setdefault(key, program.train_step)), *others

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_program", build)
        yield


def _find_shared(path: str) -> Path:
    if not (SHARED / path).exists():
        pytest.skip(f"needs {SHARED / path}, which is not part of the repository")
    return SHARED / path


@pytest.fixture(scope="session")
def weights() -> dict[float, Path]:
    """Returns the ImageNet weights of Keras, by alpha."""
    names = {0.25: "mobilenet_2_5_224_tf_no_top.h5", 1.0: "mobilenet_1_0_224_tf_no_top.h5"}
    return {alpha: _find_shared(f"weights/{name}") for alpha, name in names.items()}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Returns 27 dermoscopic images of 600 x 450 pixels, in the layout of the ISIC archive."""
    return _find_shared("data/isic2018_task3_600x450")


@pytest.fixture(scope="session")
def real_images(real_data) -> list[Image.Image]:
    """Returns four of the images in `real_data`."""
    return [Image.open(p) for p in sorted(real_data.glob("*/*.jpg"))[:4]]


@pytest.fixture(scope="session")
def isic2018() -> Path:
    """Returns the 10,015 training images of ISIC 2018 Task 3, 200 x 150 pixels, in the layout of the ISIC archive."""
    return _find_shared("data/isic2018_task3")


@pytest.fixture(scope="session")
def real_photographs(isic2018) -> list[Path]:
    """Returns a hundred of the images in `isic2018`."""
    return sorted(isic2018.glob("*/*.jpg"))[:100]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Returns the data set of `write_isic`; it must not be changed."""
    return write_isic(tmp_path_factory.mktemp("data") / "isic")


@pytest.fixture
def tiny_isic(tmp_path) -> Path:
    """Returns the data set of `write_isic`; it may be changed."""
    return write_isic(tmp_path / "isic")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory) -> Path:
    """Returns the workdir of a run of one epoch; it must not be changed."""
    from mobilenet_jax.training.loop import train_and_evaluate

    workdir = tmp_path_factory.mktemp("trained") / "run"
    train_and_evaluate(make_config(data, train__epochs=1), workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path) -> Path:
    """Returns a copy of `trained`; it may be changed."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="session")
def evaluated_once(trained, tmp_path_factory) -> Path:
    """Returns a copy of `trained` whose validation images were evaluated; it must not be changed."""
    from mobilenet_jax.cli.main import main

    workdir = shutil.copytree(trained, tmp_path_factory.mktemp("evaluated") / "run")
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            main(["evaluate", str(workdir), "--resamples=5"])
    except SystemExit:
        pytest.fail(output.getvalue())
    finally:
        _restore_logging()
    return workdir


@pytest.fixture
def evaluated(evaluated_once, tmp_path) -> Path:
    """Returns a copy of `evaluated_once`; it may be changed."""
    return shutil.copytree(evaluated_once, tmp_path / "run")


@pytest.fixture
def unrendered_plots(monkeypatch):
    """Leaves out the rendering of the plots of reports, which takes as long as the rest of a small evaluation."""
    monkeypatch.setattr("mobilenet_jax.reporting.report.encode_png", lambda figure: b"")


@pytest.fixture
def run(capsys, command_logging):
    """Returns a function that runs the `mobilenet-jax` command and returns its exit status, stdout and stderr."""
    from mobilenet_jax.cli.main import main

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Returns a `HubServer` without repositories, which huggingface_hub uses with an empty cache and no token."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs pip install -e '.[hub]'")
    server = HubServer()
    connect(server, monkeypatch, tmp_path / "hub-home")
    yield server
    huggingface_hub.utils.close_session()
    server.stop()


@pytest.fixture
def command_logging():
    """Restores the loggers that a command configures for the terminal, so that `caplog` works in later tests."""
    yield
    _restore_logging()


def _restore_logging() -> None:
    from mobilenet_jax.cli.logs import PACKAGES

    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
