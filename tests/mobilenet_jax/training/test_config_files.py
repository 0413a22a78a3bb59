import ntpath
import re
import sys

import pytest

from configs.mobilenet import RECIPES, get_config
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.training.config import parse_config
from mobilenet_jax.training.config_files import list_shipped_configs, load_config
from tests.helpers.runs import ROOT

SHIPPED = {config.name: config for config in list_shipped_configs()}


def test_every_file_and_every_recipe_is_listed_once_with_its_first_line():
    files = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.py")}
    assert SHIPPED.keys() == files | RECIPES.keys()
    assert len(SHIPPED) == len(list_shipped_configs())
    assert SHIPPED["mobilenet"].summary == sys.modules["configs.mobilenet"].__doc__.splitlines()[0]
    assert SHIPPED["sample"].summary == RECIPES["sample"]
    assert all(config.summary.endswith(".") for config in SHIPPED.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_loads_by_its_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).data.source in ("sample", "isic2018", "folders")


@pytest.mark.parametrize(
    ("specification", "recipe", "name"),
    [
        ("sample", "sample", "sample"),
        ("isic2018", "isic2018", "isic2018"),
        ("mobilenet", "sample", "mobilenet"),
        ("mobilenet:isic2018", "isic2018", "mobilenet-isic2018"),
        ("configs/mobilenet.py:isic2018", "isic2018", "mobilenet-isic2018"),
        (r"configs\mobilenet.py", "sample", None),
    ],
)
def test_shipped_configurations_have_names_and_paths(specification, recipe, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, run = parse_config(specification, [])
    assert config.to_dict() == get_config(recipe).to_dict()
    assert name in (run, None)


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    folder = tmp_path / "10:30"
    folder.mkdir()
    (folder / "mine.py").write_text("from configs.mobilenet import get_config\n")
    assert load_config(str(folder / "mine.py")).to_dict() == get_config().to_dict()


def test_a_user_file_imports_modules_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings_of_my_clinic.py").write_text("from configs.mobilenet import get_config as base\n")
    (tmp_path / "mine.py").write_text("from settings_of_my_clinic import base as get_config\n")
    assert load_config("mine.py").to_dict() == get_config().to_dict()


def test_a_user_file_builds_on_a_shipped_one_and_precedes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").write_text(
        "from configs.article.l2 import get_config as base\n"
        "def get_config(seed='1'):\n"
        "    config = base()\n"
        "    config.seed = int(seed)\n"
        "    return config\n"
    )
    path = sys.path.copy()
    assert load_config("sample").seed == 1
    assert load_config(f"{tmp_path / 'sample'}:7").seed == 7
    assert load_config("sample").regularizer.kernel_l2 == 0.01
    assert sys.path == path


def test_a_user_file_knows_its_own_path_and_can_define_dataclasses(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses, pathlib\n"
        "from configs.mobilenet import get_config as base\n"
        "@dataclasses.dataclass\n"
        "class Options:\n"
        "    folder: str = pathlib.Path(__file__).parent.name\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.dir = Options().folder\n"
        "    return config\n"
    )
    assert load_config(str(file)).data.dir == tmp_path.name


def test_a_package_of_the_user_may_be_called_configs(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "configs" / "mine.py").write_text("from configs.mobilenet import get_config")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/mine.py").data.source == "sample"
    assert load_config("finetune").data.source == "folders"
    assert sys.modules["configs.mobilenet"].get_config is get_config


def test_the_drive_of_a_windows_path_is_not_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / r"C:\mine.py").write_text("from configs.mobilenet import get_config\n")  # one name on POSIX
    monkeypatch.setattr("os.path.splitdrive", ntpath.splitdrive)
    assert load_config(r"C:\mine.py").data.source == "sample"
    assert load_config(r"C:\mine.py:isic2018").data.source == "isic2018"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(): return undefined", "mine.py cannot be loaded: NameError: name 'undefined' is not defined"),
        ("def get_config(: pass", "mine.py cannot be loaded: SyntaxError: "),
        ("import configs.missing", "ModuleNotFoundError: No module named 'configs.missing'"),
        ("config = 1", "mine.py cannot be loaded: it does not define get_config()"),
        ("def get_config(): return {}", "mine.py: get_config() returns dict, expected ml_collections.ConfigDict"),
        ("def get_config(): raise ValueError('no')", "mine.py cannot be loaded: no"),
    ],
)
def test_faults_of_a_file_are_reported_with_its_name(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config("mine.py")


@pytest.mark.parametrize("specification", ["mobilnet", "configs/mobilnet.py", "mobilnet:isic2018", "."])
def test_the_shipped_ones_are_named_if_there_is_no_such_configuration(specification):
    with pytest.raises(ConfigError) as error:
        load_config(specification)
    assert str(error.value).startswith(f"no such configuration: {specification}")
    assert str(error.value).endswith(f"one of the shipped ones: {', '.join(SHIPPED)}")
    assert ("did you mean 'mobilenet'?" in str(error.value)) == (specification != ".")


def test_a_recipe_has_no_recipes():
    with pytest.raises(ConfigError, match="no such configuration: sample:isic2018"):
        load_config("sample:isic2018")
