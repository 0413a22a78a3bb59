"""Publishing a run on a Hub, which is a server on this machine."""

import hashlib
import json

import pytest

from mobilenet_jax.weights.load import read_weights
from tests.helpers.hub_server import TOKEN
from tests.helpers.weights_files import are_equal

NAME = "owner/name"
CARD = ["README.md", "config.json", "confusion.png", "model.safetensors", "reliability.png"]


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture
def exported(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"network")
    (tmp_path / "model.tflite.json").write_text("{}")
    return tmp_path / "model.tflite"


def test_a_dry_run_lists_the_files_and_makes_no_request(run, hub, evaluated, exported):
    before = sorted(evaluated.parent.rglob("*"))
    status, out, err = run("push", evaluated, NAME, "--dry-run", "--file", exported)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [*CARD, "model.tflite", "model.tflite.json"]
    assert lines[-2].split()[1:] == ["7", "bytes"]
    assert hub.requests == []
    assert sorted(evaluated.parent.rglob("*")) == before


@pytest.mark.parametrize("option", ["--dry-run", "--private"])
def test_a_published_location_of_initial_weights_is_named_before_the_upload(run, hub, evaluated, token, option):
    file = evaluated / "config.json"
    config = json.loads(file.read_text())
    config["init"]["weights"] = "hf://owner/base"
    file.write_text(json.dumps(config))
    status, out, err = run("push", evaluated, NAME, option)
    line = "warning: the card names the initial weights hf://owner/base, even if that repository is private"
    assert (status, err.splitlines()[0]) == (0, line)
    assert "hf://owner/base" not in out


def test_a_published_model_loads_back_bit_for_bit(run, hub, evaluated, exported, token):
    status, out, err = run("push", evaluated, NAME, "--file", exported)
    repository = hub.repositories[NAME]
    [(commit, files)] = repository.commits.items()
    assert (status, out) == (0, f"{hub.url}/{NAME}/commit/{commit}\n")
    assert sorted(files) == sorted([*CARD, "model.tflite", "model.tflite.json"])
    assert files["model.tflite"] == b"network"
    assert json.loads(files["config.json"])["image_size"] == [32, 32]
    published, expected = read_weights(f"hf://{NAME}"), read_weights(evaluated)
    assert are_equal(published.tensors, expected.tensors)
    assert published.metadata.classes == expected.metadata.classes
    assert not repository.private
    assert token not in out + err


def test_published_models_predict_and_are_evaluated(run, hub, evaluated, token, data, tmp_path, monkeypatch):
    run("push", evaluated, NAME)
    monkeypatch.chdir(tmp_path)
    assert run("predict", f"hf://{NAME}", min(data.glob("*Training_Input/*.jpg")))[0] == 0
    options = (f"--data={data}", "--source=isic2018", "--resamples=0")
    assert run("evaluate", f"hf://{NAME}", *options)[0] == 0
    metrics = json.loads((tmp_path / "name-evaluation" / "all-isic" / "metrics.json").read_text())
    assert metrics["workdirs"] == [f"hf://{NAME}"]
    assert (
        f"--correct requires the workdir of a run: hf://{NAME} has"
        in run("evaluate", f"hf://{NAME}", *options, "--correct=prior")[2]
    )


def test_an_interrupted_upload_continues(run, hub, evaluated, exported, token):
    small = hashlib.sha256(b"network").hexdigest()
    hub.dropped.add(small)
    status, out, err = run("push", evaluated, NAME, "--file", exported)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: the connection to the Hub failed (")
    assert not hub.repositories[NAME].commits
    [large] = hub.objects
    hub.dropped.clear()
    hub.requests.clear()
    status, out, err = run("push", evaluated, NAME, "--file", exported)
    assert status == 0
    assert [path for method, path in hub.requests if method == "PUT"] == [f"/objects/{small}"]
    assert are_equal(read_weights(f"hf://{NAME}").tensors, read_weights(evaluated).tensors)
    assert set(hub.objects) == {large, small}
    assert token not in err


def test_a_repository_of_another_model_is_refused_without_force(run, hub, evaluated, token):
    before = {"README.md": b"# A card that was written by hand", "config.json": b"{}"}
    hub.add(NAME, before)
    status, out, err = run("push", evaluated, NAME)
    message = "has a model card of another origin: choose another name, or replace its files with --force"
    assert (status, out, err) == (1, "", f"error: {NAME} {message}\n")
    assert list(hub.repositories[NAME].commits.values()) == [before]
    for options in (["--force"], []):
        assert run("push", evaluated, NAME, *options)[0] == 0


@pytest.mark.parametrize("changed", ["sha256", "source"])
def test_the_export_of_another_run_is_not_published(run, hub, evaluated, exported, changed):
    source = read_weights(evaluated).metadata.source
    description = {"sha256": hashlib.sha256(b"network").hexdigest(), "source": source}
    file = exported.with_name("model.tflite.json")
    file.write_text(json.dumps(description))
    assert run("push", evaluated, NAME, "--dry-run", "--file", exported)[0] == 0
    file.write_text(json.dumps({**description, changed: "other"}))
    status, out, err = run("push", evaluated, NAME, "--dry-run", "--file", exported)
    assert (status, out) == (1, "")
    assert err == (
        f"error: {exported} is not the export of {source}, since {changed} differs in its description: export the run "
        "again\n"
    )


def test_private_repositories_stay_private(run, hub, evaluated, token):
    assert run("push", evaluated, NAME, "--private")[0] == 0
    assert hub.repositories[NAME].private
    hub.add("owner/public", {"README.md": b""})
    _, out, err = run("push", evaluated, "owner/public", "--private")
    assert out == ""
    assert err == "error: owner/public exists and is public: change it on its page, or omit --private\n"
    assert [list(files) for files in hub.repositories["owner/public"].commits.values()] == [["README.md"]]


def test_a_push_without_permission_or_server_fails_in_a_line(run, hub, evaluated, monkeypatch):
    def fail(*arguments):
        status, out, err = run("push", evaluated, *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
        return err

    assert fail("name") == (
        "error: 'name' is not the name of a repository: use OWNER/NAME, of letters, digits, '-', '_' and '.'\n"
    )
    assert fail(NAME, "--file=missing.tflite") == "error: missing.tflite is not a file\n"
    assert "config.json has the name of another file" in fail(NAME, f"--file={evaluated / 'config.json'}")
    assert "first, or choose another --evaluation" in fail(NAME, "--evaluation=other")
    assert fail(NAME) == (
        "error: no token of the Hub was found: run `hf auth login` or set HF_TOKEN, with write access\n"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert fail(NAME).startswith(f"error: the token has no write access to {NAME}: run `hf auth login` or set HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fail(NAME) == "error: HF_HUB_OFFLINE forbids uploads: unset it\n"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.stop()
    assert fail(NAME).startswith("error: the connection to the Hub failed (ConnectError): check the network")
