"""Adds a copy of `configs/` to the wheel; everything else is in pyproject.toml.

The copy is `mobilenet_jax/shipped/configs/`, because `configs` is too general a name for an installed package. An
editable installation reads `configs/` itself.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Builds the packages and copies the configurations into them."""

    def run(self) -> None:
        """Builds."""
        super().run()
        if not self.editable_mode:
            destination = Path(self.build_lib) / "mobilenet_jax" / "shipped" / "configs"
            shutil.rmtree(destination, ignore_errors=True)
            shutil.copytree("configs", destination, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithConfigs})
