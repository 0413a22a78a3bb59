"""Configuration files: lists the shipped ones, finds a file by its name, and executes it.

The shipped files are in the folder `configs`. In the repository it is next to this package; the wheel has a copy inside
this package (`setup.py`). It is importable while a file is loaded, so that every configuration file can build on a
shipped one in the same way: `from configs.mobilenet import get_config`.
"""

import ast
import contextlib
import difflib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mobilenet_jax.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_FOLDER = (_PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent) / "configs"


class ShippedConfig(NamedTuple):
    """A configuration that is part of the project.

    Attributes:
        name: the name for `--config`, such as `article/l2` for a file or `sample` for a recipe.
        file: the file that defines it.
        recipe: the argument of its `get_config`, or None for the default one.
        summary: one line that describes it.
    """

    name: str
    file: Path
    recipe: str | None
    summary: str


def list_shipped_configs() -> list[ShippedConfig]:
    """Lists the shipped files, each followed by its recipes; experiments of the article are last.

    The files are parsed and not executed: their first line is that of the docstring, and their recipes are the
    dictionary `RECIPES` of names and descriptions, if they define it.
    """
    configs = []
    files = (path.relative_to(_FOLDER) for path in _FOLDER.rglob("*.py"))
    for file in sorted(files, key=lambda file: (len(file.parts), file)):
        tree = ast.parse((_FOLDER / file).read_text(encoding="utf-8"))
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        configs.append(ShippedConfig(file.with_suffix("").as_posix(), _FOLDER / file, None, summary))
        configs += [ShippedConfig(name, _FOLDER / file, name, text) for name, text in _read_recipes(tree).items()]
    return configs


def _read_recipes(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECIPES":
            recipes: dict[str, str] = ast.literal_eval(node.value)
            return recipes
    return {}


def load_config(specification: str) -> ConfigDict:
    """Loads a configuration.

    Args:
        specification: `FILE` or `FILE:RECIPE`, with the path of a file or the name of a shipped one, or the name of a
            shipped recipe.

    Raises:
        ConfigError: there is no such file or recipe, or the file cannot be executed.
    """
    file, recipe = _find_config(specification)
    config = execute_file(file, "get_config", *([] if recipe is None else [recipe]))
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config() returns {type(config).__name__}, expected ml_collections.ConfigDict")
    return config


def execute_file(file: Path, name: str, *arguments: Any) -> Any:
    """Executes a Python file, calls its function `name` with the arguments, and returns the result.

    Raises:
        ConfigError: the file does not define the function, or one of them raises an exception.
    """
    loader = importlib.machinery.SourceFileLoader("_loaded_config", str(file))
    spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
    assert spec is not None, "there is a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module that defines them
    try:
        with provide_configs():
            loader.exec_module(module)
            if not hasattr(module, name):
                raise ConfigError(f"it does not define {name}()")
            return getattr(module, name)(*arguments)
    except Exception as error:  # the file may raise anything
        raise ConfigError(f"{file} cannot be loaded: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """Returns the message of an error in a user's code, with its type unless it is a `ValueError` or `ConfigError`."""
    return str(error) if isinstance(error, ValueError | ConfigError) else f"{type(error).__name__}: {error}"


def _find_config(specification: str) -> tuple[Path, str | None]:
    """Returns the file and the recipe that `--config` specifies; an existing file precedes a shipped one."""
    if Path(specification).is_file():  # its path may contain a colon
        return Path(specification), None
    drive, rest = os.path.splitdrive(specification)  # the colon of C:\ does not separate a recipe
    file, separator, recipe = rest.partition(":")
    if Path(drive + file).is_file():
        return Path(drive + file), recipe if separator else None
    name = file.replace("\\", "/").removeprefix("configs/").removesuffix(".py")
    shipped = {config.name: config for config in list_shipped_configs()}
    if name in shipped and not (separator and shipped[name].recipe):
        return shipped[name].file, recipe if separator else shipped[name].recipe
    near = difflib.get_close_matches(name, shipped, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(
        f"no such configuration: {specification}{hint}; expected a file, or one of the shipped ones: "
        f"{', '.join(shipped)}"
    )


@contextlib.contextmanager
def provide_configs() -> Iterator[None]:
    """Makes the current folder importable, and `configs`: the folder of that name in it and the shipped one, as one.

    Other packages called `configs` are hidden meanwhile.
    """
    path, others = sys.path.copy(), _remove_configs()
    package = ModuleType("configs")
    package.__path__ = [os.path.join(os.getcwd(), "configs"), str(_FOLDER)]
    sys.modules["configs"] = package
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = path
        _remove_configs()
        sys.modules.update(others)


def _remove_configs() -> dict[str, ModuleType]:
    """Removes the package `configs` from the imported modules, and returns its modules by name."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "configs"}
