"""Weights on a Hub, which is a server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mobilenet_jax import load_pretrained
from mobilenet_jax.errors import WeightsError
from mobilenet_jax.training.setup import init_model
from mobilenet_jax.weights.hub import download, import_hub, is_hub_location, report_failures, strip_folder
from mobilenet_jax.weights.load import map_tensors, read_weights
from tests.helpers.hub_server import TOKEN, make_environment
from tests.helpers.runs import ROOT, make_config
from tests.helpers.weights_files import are_equal, make_random_tensors, write_safetensors

LOCATION = "hf://owner/name"


@pytest.fixture
def content(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"image_size": "[96, 96]"})
    return (tmp_path / "w.safetensors").read_bytes()


@pytest.fixture
def files(content):
    return {"model.safetensors": content, "config.json": b"{}", "README.md": b"text"}


def test_weights_are_downloaded_once_and_read_from_the_cache(hub, files, monkeypatch):
    commit = hub.add("owner/name", files)
    weights = read_weights(LOCATION)
    assert are_equal(weights.tensors, make_random_tensors())
    assert weights.metadata.image_size == (96, 96)
    assert weights.metadata.source == f"{LOCATION}@{commit}"
    assert sorted({path.rpartition("/")[2] for _, path in hub.requests}) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    hub.requests.clear()
    assert map_tensors(LOCATION, "keras")
    assert hub.requests == [("HEAD", "/owner/name/resolve/main/model.safetensors")]
    assert read_weights(f"{LOCATION}@{commit}").metadata == weights.metadata
    assert len(hub.requests) == 1, "files of a commit never change"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_weights(LOCATION).metadata == weights.metadata
    assert len(hub.requests) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.stop()
    assert read_weights(LOCATION).metadata == weights.metadata


def test_the_descriptions_are_of_the_commit_of_the_weights_and_beside_them(hub, files):
    first = hub.add("owner/name", files)
    pull_request = hub.add("owner/name", files | {"preprocessor_config.json": b"{}"}, reference="refs/pr/1")
    second = hub.add("owner/name", {"config.json": b"[]"})
    for revision, commit, config in (
        ("", second, b"[]"),
        (f"@{first}", first, b"{}"),
        ("@refs/pr/1", pull_request, b"{}"),
    ):
        path, source = download(f"{LOCATION}{revision}")
        assert source == f"{LOCATION}@{commit}"
        assert path.name == "model.safetensors"
        assert (path.parent / "config.json").read_bytes() == config
        assert (path.parent / "preprocessor_config.json").exists() == (commit == pull_request)


def test_a_commit_during_a_download_does_not_mix_with_the_commit_of_the_weights(hub, files, monkeypatch):
    first, download_file = hub.add("owner/name", files), import_hub("owner/name").hf_hub_download

    def download_and_commit(*args, **options):
        path = download_file(*args, **options)
        hub.add("owner/name", {"config.json": b"[]"})
        return path

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download_and_commit)
    path, source = download(LOCATION)
    assert source == f"{LOCATION}@{first}"
    assert (path.parent / "config.json").read_bytes() == b"{}"


def test_a_description_that_was_not_downloaded_is_not_taken_for_one_that_does_not_exist(hub, files, monkeypatch):
    hub.add("owner/name", files)
    (download(LOCATION).path.parent / "config.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids requests, and the files are not all in the cache"):
        read_weights(LOCATION)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hf://name", "malformed location: use hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
        ("hf://owner/name/model.safetensors", "malformed location"),
        ("hf://owner/name@", "malformed location"),
        ("hf://owner/name@../../main", "malformed location"),
        ("hf://owner/na--me", "'owner/na--me' is not the name of a repository"),
        ("hf://owner/other", "or is private: check its name; to read a private one, run `hf auth login`"),
        ("hf://owner/private", "the repository does not exist or is private"),
        ("hf://owner/name@other", "no such revision"),
        ("hf://owner/pickle", "a Python pickle, which is refused because it can execute arbitrary code: try "
         "hf://owner/pickle@refs/pr/1, where"),
        ("hf://owner/empty", "it has no model.safetensors"),
    ],
)  # fmt: skip
def test_locations_without_weights_are_refused_in_a_line(hub, files, location, message):
    hub.add("owner/name", files)
    hub.add("owner/private", files, private=True)
    hub.add("owner/pickle", {"pytorch_model.bin": b"\x80\x02"})
    hub.add("owner/empty", {"README.md": b"text"})
    with pytest.raises(WeightsError) as error:
        read_weights(location)
    assert str(error.value).startswith(f"{location}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_downloads_are_refused(hub, files, content):
    hub.add("owner/name", files)
    hub.replaced["model.safetensors"] = content[:-1] + b"@"
    with pytest.raises(WeightsError, match=r"does not have its SHA-256: delete .*/blobs/[0-9a-f]{64} and try again$"):
        load_pretrained(LOCATION)
    hub.add("owner/short", files)
    hub.replaced["model.safetensors"] = content[:-1]
    with pytest.raises(
        WeightsError, match=r"^hf://owner/short: the connection to the Hub failed \(RemoteProtocolError\)"
    ):
        load_pretrained("hf://owner/short")
    hub.replaced.clear()
    assert load_pretrained("hf://owner/short")[0].alpha == 0.25
    hub.add("owner/text", {"model.safetensors": b"<!doctype html>"})
    with pytest.raises(WeightsError, match=r"^hf://owner/text: not a weights file"):
        load_pretrained("hf://owner/text")


def test_damaged_downloads_are_refused_where_the_cache_has_no_links(hub, files, content, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda folder=None: False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("owner/name", files, private=True)
    hub.replaced["model.safetensors"] = content[:-1] + b"@"
    with pytest.raises(WeightsError, match=r"SHA-256: delete .*/model\.safetensors and try again$") as error:
        load_pretrained(LOCATION)
    path = Path(str(error.value).partition("delete ")[2].removesuffix(" and try again"))
    path.unlink()
    hub.replaced.clear()
    assert load_pretrained(LOCATION)[0].alpha == 0.25
    assert not path.is_symlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_pretrained(LOCATION)[0].alpha == 0.25
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.stop()
    assert load_pretrained(LOCATION)[0].alpha == 0.25


def test_what_is_not_in_the_cache_needs_a_server(hub, files, monkeypatch):
    hub.add("owner/name", files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"^hf://owner/name: HF_HUB_OFFLINE forbids requests, and the files"):
        read_weights(LOCATION)
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.stop()
    with pytest.raises(
        WeightsError, match=r"^hf://owner/name: the connection to the Hub failed \(ConnectError\): check the"
    ):
        read_weights(LOCATION)


def test_private_repositories_need_the_token_of_the_user(hub, files, monkeypatch):
    hub.add("owner/private", files, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_weights("hf://owner/private").architecture.alpha == 0.25
    monkeypatch.setenv("HF_TOKEN", "hf_token\x01")
    with pytest.raises(WeightsError, match="the token of the Hub contains invalid characters") as error:
        read_weights("hf://owner/private")
    assert "hf_token" not in str(error.value)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"^hf://owner/name: .*pip install -e '\.\[hub\]' in the repository$"):
        read_weights(LOCATION)


def test_an_old_package_is_refused_with_the_command_that_updates_it(hub, monkeypatch):
    monkeypatch.delattr("huggingface_hub.errors.RemoteEntryNotFoundError")  # exists since 1.0
    with pytest.raises(WeightsError, match=r"huggingface_hub 1\.0 or newer is not installed: run pip install"):
        read_weights(LOCATION)
    assert hub.requests == []


def test_a_variable_that_is_not_valid_and_a_proxy_that_needs_a_package_are_errors_of_a_line(monkeypatch):
    def fail(name):
        raise ValueError("invalid literal for int() with base 10: 'abc'")

    reason = "Using SOCKS proxy, but the 'socksio' package is not installed."
    message = f"HTTPS_PROXY or ALL_PROXY needs another package: {reason}$"
    with pytest.raises(WeightsError, match=message), report_failures():
        raise ImportError(f"{reason}\nMore.")
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(
        WeightsError, match=r"variable of huggingface_hub, HF_\.\.\., has an invalid value \(invalid lit"
    ):
        import_hub("owner/name")


def test_training_starts_from_weights_on_the_hub_and_logs_their_commit(hub, files, data, caplog):
    commit = hub.add("owner/name", files)
    config = make_config(data, init__weights=LOCATION, init__input_scaling="weights")
    with caplog.at_level("INFO"):
        init_model(config, jax.random.key(0, impl="rbg"))
    assert f"backbone from {LOCATION}@{commit}; input scaling [-1, 1]" in caplog.messages


def test_another_process_follows_the_variables_of_the_hub(hub, files, tmp_path):
    commit = hub.add("owner/private", files, private=True)
    target = tmp_path / "target.safetensors"
    command = ["convert", "hf://owner/private", str(target)]
    code = f"from mobilenet_jax.cli.main import main; main({command})"
    environment = {**os.environ, **make_environment(hub, tmp_path / "home")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"hf://owner/private (safetensors) -> {target}\n")
    assert TOKEN not in result.stdout + result.stderr
    assert (tmp_path / "home" / "hub" / "models--owner--private" / "snapshots" / commit).is_dir()


def test_folders_of_files_are_private_and_locations_on_the_hub_are_not():
    assert is_hub_location("hf://owner/name@refs/pr/1")
    assert not is_hub_location("hf/owner")
    assert strip_folder("/home/user/w.h5") == "w.h5"
    assert strip_folder("hf://owner/name@refs/pr/1") == "hf://owner/name@refs/pr/1"
