"""Workdirs and weights of an attacker: nothing is executed, and no file is written outside the destination."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.save import write_weights
from tests.helpers.runs import ROOT

_NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    '=HYPERLINK("http://x.invalid")',
    "../../outside",
    "[link](javascript:alert(1))",
    "{{ 7 * 7 }}",
    "a,b;c",
)
_EVENTS = re.compile(r"<[^>]*\son\w+\s*=", re.IGNORECASE)


@pytest.fixture(scope="module")
def hostile(trained, tmp_path_factory):
    """Returns the workdir of a run whose class names are hostile, in a folder of its own."""
    folder = tmp_path_factory.mktemp("hostile") / "a" / "b"
    workdir = shutil.copytree(trained, folder / "run")
    weights = read_weights(trained)
    old, new = weights.metadata.classes, _NAMES
    table = (workdir / "splits.csv").read_text()
    (workdir / "splits.csv").write_text(table.replace(f",{old[0]},", ",'=1+1,"))
    for path in workdir.glob("checkpoints/*/history/metadata"):
        history = json.loads(path.read_text())
        path.write_text(json.dumps(history | {"classes": list(new)}))
        shutil.rmtree(path.parents[1] / "checksums")  # an attacker writes matching ones
    return workdir


@pytest.fixture(scope="module")
def hostile_weights(hostile):
    """Returns a safetensors file with hostile class names."""
    path = hostile.with_name("weights.safetensors")
    write_weights(path, read_weights(hostile))
    return path


def _list_files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["workdir", pytest.param("weights", marks=pytest.mark.slow)])
def test_hostile_names_stay_text(kind, hostile, hostile_weights, data, tmp_path, run, tally, monkeypatch):
    model, commands = {"workdir": hostile, "weights": hostile_weights}[kind], tally("command on a hostile model")
    images, out = next(data.glob("*_Input")), tmp_path / "deep" / "er" / "out"
    out.mkdir(parents=True)
    monkeypatch.chdir(out)
    folders = [*([] if kind == "workdir" else [f"--data={data}", "--split=all", "--source=isic2018"])]
    for arguments in (
        ["predict", model, images],
        ["predict", model, images, f"--out={out / 'table.csv'}", f"--explain={out / 'explanations'}"],
        ["predict", model, images, f"--out={out / 'table.jsonl'}", "--format=jsonl"],
        ["predict", model, images, f"--out={out / 'challenge.csv'}", "--format=isic"],
        ["convert", model, out / "copy.safetensors"],
        ["convert", model, out / "transformers", "--to=transformers"],
        ["convert", model, out / "orbax"],
        ["evaluate", model, f"--out={out / 'evaluation'}", "--resamples=5", *folders],
        ["compare", model, model],
        ["card", model, f"--out={out / 'card'}"],
        ["push", model, "owner/name", "--dry-run"],
        *([["export", model, out / "model.onnx"]] if importlib.util.find_spec("onnxruntime") else []),
    ):
        status, output, error = run(*arguments)
        problem = "Traceback" in error or status not in (0, 1) or (status and error.count("\n") > 20)
        controls = re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", output + error)
        commands.count(f"{arguments[:2]}: {status} {error} {controls}" if problem or controls else None)
    assert _list_files(tmp_path) - _list_files(tmp_path / "deep" / "er") <= {"deep", "deep/er"} | {
        f"deep/er/{name}" for name in _list_files(tmp_path / "deep" / "er")
    }
    for path in out.rglob("*"):
        if path.suffix in (".html", ".md", ".svg"):
            text = path.read_text()
            commands.count(f"{path.name} runs a script" if "<script>alert" in text or _EVENTS.search(text) else None)
        if path.suffix == ".csv":
            cells = [cell.strip('"') for line in path.read_text().splitlines() for cell in line.split(",")]
            commands.count(f"{path.name} has a formula" if any(c.startswith(("=", "@")) for c in cells) else None)


def test_bandit_finds_nothing_without_a_stated_reason(tally):
    """Each exception has `# nosec` with the number of the check, and the reason next to it."""
    pytest.importorskip("bandit", reason="needs pip install -e '.[test]'")
    command = [
        sys.executable,
        "-m",
        "bandit",
        "-r",
        "-q",
        "-f",
        "json",
        "-c",
        "pyproject.toml",
        "mobilenet_jax",
        "input_pipeline",
        "train.py",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [
        f"{r['filename']}:{r['line_number']} {r['test_id']} {r['issue_text']}"
        for r in json.loads(result.stdout)["results"]
    ]
    tally("bandit").count("\n".join(found) or None)


def test_installed_packages_fit_together():
    """The versions are those that the packages require of each other; a list of vulnerabilities needs a network."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    result = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout
