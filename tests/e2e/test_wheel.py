"""The wheel is built from a copy of the sources, installed into a folder, and used from an empty one."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers.runs import ROOT

SOURCES = ("configs", "input_pipeline", "mobilenet_jax", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
OWN_FILE = """
from configs.mobilenet import get_config as sample

def get_config():
    config = sample()
    config.train.epochs = 1
    return config
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Returns the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "sources" / name)
        else:
            shutil.copy(ROOT / name, folder / "sources" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder]
    subprocess.run([*command, folder / "sources"], check=True, capture_output=True)
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def run_installed(wheel, tmp_path_factory):
    """Returns a function that runs the installed command in an empty folder, and returns its output and the folder."""
    target, folder = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True)

    def run_installed(*arguments):
        command = [sys.executable, target / "bin" / "mobilenet-jax", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(target)}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout, folder

    return run_installed


def test_the_wheel_holds_the_packages_the_templates_and_the_configurations(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = {
        str(path.relative_to(ROOT))
        for package in ("input_pipeline", "mobilenet_jax")
        for pattern in ("*.py", "*.j2")
        for path in (ROOT / package).rglob(pattern)
    }
    packages |= {str(path.relative_to(ROOT)) for path in (ROOT / "mobilenet_jax" / "demo" / "site").iterdir()}
    configs = {f"mobilenet_jax/shipped/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert names == packages | configs


def test_the_installed_command_lists_the_configurations(run_installed):
    out, _ = run_installed("configs")
    names = [line.split()[0] for line in out.splitlines()]
    assert {"mobilenet", "sample", "isic2018", "article/l2"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("sample", ["--config.train.epochs=1"]),
        ("mine.py", []),
        ("article/l2", ["--config.data.source=sample", "--config.data.image_size=32", "--config.train.epochs=1",
                        "--config.model.alpha=0.25", "--config.init.weights=none"]),
    ],
)  # fmt: skip
def test_the_installed_command_trains(run_installed, config, overrides):
    _, folder = run_installed("configs")
    (folder / "mine.py").write_text(OWN_FILE)
    out, folder = run_installed("train", f"--config={config}", *overrides)
    name = config.removesuffix(".py").rpartition("/")[2]
    assert f"metrics: runs/{name}/metrics.jsonl" in out
    assert json.loads((folder / "runs" / name / "summary.json").read_text())["last"]["epoch"] == 1
