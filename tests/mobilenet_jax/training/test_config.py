import importlib
import json
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import required_placeholder

from configs.mobilenet import get_config
from mobilenet_jax.errors import ConfigError
from mobilenet_jax.training.config import check_config, find_differences, parse_config
from tests.helpers.runs import ROOT


def test_the_recipes_are_valid_and_isic2018_requires_a_folder():
    check_config(get_config())
    config = get_config("isic2018")
    with pytest.raises(ConfigError, match=r"--config\.data\.dir=DIR"):
        check_config(config)
    config.data.dir = "somewhere"
    check_config(config)


def test_the_isic2018_recipe_is_that_of_the_article():
    config = get_config("isic2018").to_dict()
    model = {"alpha": 1.0, "head": "article", "dropout": 0.5, "num_classes": 7}
    keras = {"batch_norm_momentum": 0.99, "batch_norm_epsilon": 1e-3, "padding": "keras", "conv_head": False}
    assert config["model"] == {**model, **keras, "frozen_blocks": 0, "batch_norm": "frozen"}
    optimizer = {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9, "schedule": "constant"}
    added = {"plateau_factor": 0.1, "plateau_patience": 10, "backbone_rate_ratio": 1.0, "block_rate_decay": 1.0}
    assert {name: value for name, value in config["optimizer"].items() if value} == {**optimizer, **added}
    assert {name: value for name, value in config["train"].items() if value} == {
        "batch_size": 32,
        "epochs": 100,
        "precision": "float32",
    }
    assert not any(config["regularizer"].values())
    assert not config["early_stopping"]["enabled"]
    assert config["data"]["image_size"] == 224
    assert config["init"] == {"weights": "imagenet", "input_scaling": "1/255"}
    shifts = {
        "rotation": 30.0,
        "width_shift": 0.3,
        "height_shift": 0.3,
        "zoom": 0.3,
        "horizontal_flip": True,
        "fill_mode": "nearest",
        "where": "host",
    }
    no_crop = {"crop_area": 1.0, "crop_ratio": 1.0}
    assert {name: value for name, value in config["augment"].items() if value} == {**shifts, **no_crop}
    assert {name: value for name, value in config["loss"].items() if value} == {
        "class_weights": "none",
        "soft_labels_weight": 0.5,
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.alpha", 0.3, "config.model.alpha is 0.3, but must be a positive multiple of 1/32"),
        ("model.head", "artcle", "must be one of 'article', 'article_bn', 'small' (did you mean 'article'?)"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0, but must be a number in [0, 1)"),
        ("model.frozen_blocks", 14, "an integer from 0 to 13"),
        ("init.input_scaling", "[-1, 1]", "one of '1/255', 'weights'"),
        ("init.input_scaling", "weights", "but config.init.weights is not set"),
        ("loss.weights_from_epoch", 5, "but config.loss.class_weights is 'none'"),
        ("model.num_classes", 1, "an integer of at least 2, or 0"),
        ("data.image_size", 31, "config.data.image_size is 31, but must be an integer from 32 to 2048"),
        ("data.val_fraction", 0.0, "a number in (0, 1)"),
        ("data.source", "isic", "did you mean 'isic2018'?"),
        ("optimizer.learning_rate", 0.0, "a number in (0, inf)"),
        ("optimizer.learning_rate", float("nan"), "config.optimizer.learning_rate is nan"),
        ("optimizer.learning_rate", float("inf"), "config.optimizer.learning_rate is inf"),
        ("model.batch_norm_momentum", 1.0, "config.model.batch_norm_momentum is 1.0, but must be a number in [0, 1)"),
        ("optimizer.name", "adagrad", "one of 'sgd', 'adadelta', 'adam', 'adamw'"),
        ("optimizer.backbone_rate_ratio", 0.0, "a number in (0, inf)"),
        ("train.ema_decay", 1.0, "config.train.ema_decay is 1.0, but must be a number in [0, 1)"),
        ("data.dir", "images", "data.source"),
        ("train.reestimate_batch_norm", -1, "an integer of at least 0"),
        ("train.batch_size", 0, "an integer of at least 1"),
        ("train.epochs", True, "config.train.epochs is True"),
        ("augment.zoom", 1.0, "a number in [0, 1)"),
        ("seed", -1, "config.seed is -1"),
        ("seed", 2**32, "an integer from 0 to 4294967295"),
    ],
)
def test_values_out_of_range_are_named_with_the_valid_ones(key, value, message):
    *section, name = key.split(".")
    config = get_config().to_dict()
    (config[section[0]] if section else config)[name] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(ConfigDict(config))


def test_no_similar_value_is_suggested_where_there_is_none():
    config = ConfigDict(get_config().to_dict())
    config.model.head = "one"
    with pytest.raises(ConfigError, match="must be one of 'article', 'article_bn', 'small'$"):
        check_config(config)


def test_unknown_and_missing_keys_are_named():
    config = ConfigDict(get_config().to_dict())
    config.train.epoch = 3
    with pytest.raises(ConfigError, match=r"unknown key config\.train\.epoch: did you mean config\.train\.epochs\?"):
        check_config(config)
    del config.train.epoch
    del config.model.alpha
    with pytest.raises(ConfigError, match=r"config\.model\.alpha is missing"):
        check_config(config)


def test_a_required_placeholder_without_a_value_is_refused():
    config = get_config()
    config.train.epochs = required_placeholder(int)
    with pytest.raises(ConfigError, match="a required placeholder has no value"):
        check_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train": {"epochs": required_placeholder(int)}}, "mine.py has a required placeholder: set its value"),
        ({"data": "/images"}, "unknown key config.data: did you mean"),
    ],
)
def test_a_file_with_an_invalid_section_is_refused(monkeypatch, config, message):
    monkeypatch.setattr("mobilenet_jax.training.config.load_config", lambda file: ConfigDict(config))
    with pytest.raises(ConfigError, match=message):
        check_config(parse_config("mine.py", [])[0])


def test_a_value_after_a_colon_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"train\.epochs") as error:
        parse_config("sample", ["--config.train.epochs:3"])
    assert "\n" not in str(error.value)


def test_the_tilde_of_a_path_is_expanded(monkeypatch):
    """Shells expand it at the start of an argument only."""
    monkeypatch.setenv("HOME", "/home/me")
    config, _ = parse_config("finetune", ["--config.data.dir=~/images", "--config.init.weights=~/w.h5"])
    assert (config.data.dir, config.init.weights) == ("/home/me/images", "/home/me/w.h5")


def test_the_tilde_of_a_configuration_and_of_a_split_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("from configs.finetune import get_config\n")
    config, name = parse_config("~/mine.py", ["--config.data.split=~/splits.csv"])
    assert (config.data.split, name) == (str(tmp_path / "splits.csv"), "mine")


def test_an_override_of_a_key_that_the_file_lacks_is_an_error(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from configs.mobilenet import get_config as base\n\n\ndef get_config():\n    config = base()\n")
    with file.open("a") as opened:
        opened.write("    config.unlock()\n    del config.data.resize\n    return config\n")
    with pytest.raises(ConfigError, match=r"mine\.py lacks config\.data\.resize: add it to the file"):
        parse_config(str(file), ["--config.data.resize=crop"])


def test_none_is_set_in_the_file_only():
    with pytest.raises(ConfigError, match=r"must be a finite number \(None is set in the file\)"):
        parse_config("sample", ["--config.early_stopping.baseline=None"])


def test_keys_that_an_earlier_configuration_lacks_count_as_their_default():
    """Compares the recipe with its `config.json` of the first version, whose keys no later version may remove."""
    first = json.loads(Path(__file__).with_name("first_config.json").read_text())
    assert find_differences(first, get_config("isic2018").to_dict()) == {}
    changed = get_config("isic2018").to_dict()
    changed["train"]["reestimate_batch_norm"] = 100
    assert find_differences(first, changed) == {"train.reestimate_batch_norm": (0, 100)}


def test_the_recipe_for_your_own_images_is_valid():
    config = importlib.import_module("configs.finetune").get_config()
    with pytest.raises(ConfigError, match=r"--config\.data\.dir=DIR"):
        check_config(config)
    config.data.dir = "somewhere"
    check_config(config)
    assert config.model.num_classes == 0


def test_random_weights_are_the_same_setting_in_a_file_and_on_the_command_line():
    old, new = get_config().to_dict(), get_config().to_dict()
    old["init"]["weights"], new["init"]["weights"] = None, "None"
    assert find_differences(old, new) == {}


def test_differences_name_what_changed():
    old, new = get_config().to_dict(), get_config().to_dict()
    assert find_differences(old, new) == {}
    new["train"]["epochs"] = 7
    del new["seed"]
    assert find_differences(old, new) == {"seed": (0, None), "train.epochs": (old["train"]["epochs"], 7)}


ARTICLE = {
    "original": {},
    "first": {"data.split": "first:0.3"},
    "per_class": {"data.split": "per_class:0.3"},
    "batch_norm": {"model.head": "article_bn"},
    "l1": {"model.head": "article_bn", "regularizer.kernel_l1": 0.01, "regularizer.activity_l1": 0.01},
    "l2": {"model.head": "article_bn", "regularizer.kernel_l2": 0.01, "regularizer.activity_l2": 0.01},
    "early_stopping": {"early_stopping.enabled": True},
    "adadelta": {
        "optimizer.name": "adadelta",
        "optimizer.learning_rate": 1.0,
        "train.batch_size": 64,
        "train.epochs": 50,
    },
}
ARTICLE["l1_l2"] = {**ARTICLE["l1"], **ARTICLE["l2"]}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "article").glob("*.py")))
def test_each_experiment_of_the_article_changes_only_its_own_keys(name):
    base = get_config("isic2018").to_dict()
    config = importlib.import_module(f"configs.article.{name}").get_config()
    changed = {key: new for key, (_, new) in find_differences(base, config.to_dict()).items()}
    assert changed == {"data.split": "last:0.3", "augment.on_validation": True, **ARTICLE[name]}
    config.data.dir = "somewhere"
    check_config(config)
