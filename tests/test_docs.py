"""The documents are checked against the code: files, links, settings, commands and their options exist."""

import re
import shlex
import subprocess

import pytest
import yaml

from configs.mobilenet import get_config
from mobilenet_jax.cli.main import main
from mobilenet_jax.training.config import check_config, check_keys, parse_config
from tests.helpers.runs import ROOT

README = ROOT / "README.md"
CLUSTERS = (ROOT / "docs" / "clusters.md").read_text()
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/results/*.md") for path in ROOT.glob(pattern))
PACKAGES = ("input_pipeline", "mobilenet_jax")
FOLDERS = (*PACKAGES, "configs", "benchmarks", "tests", "docs")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def _get_block(language):
    [block] = re.findall(rf"```{language}\n(.*?)```", CLUSTERS, re.DOTALL)
    return block


def _list_code_lines(text):
    """Returns the lines of code blocks, with continued lines joined, and the inline code of a document."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose)]
    return "\n".join(blocks).replace("\\\n", " ").splitlines() + inline


def _list_anchors(text):
    """Returns the anchors that GitHub gives to the headings of a document."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _list_tree():
    """Returns the paths of the tree in architecture.md: two spaces per level, the first word of a line is the name."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    [tree] = re.findall(r"^## Package layout\n.*?^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    folders, paths = [], []
    for line in tree.splitlines():
        level, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        if level <= len(folders):  # a deeper line continues the description of the line before
            folders[level:] = [name.rstrip("/")] if name.endswith("/") else []
            paths.append("/".join([*folders[:level], name.rstrip("/")]))
    return paths


@pytest.mark.parametrize("language", ["sbatch", "sh"])
def test_shell_scripts_parse(language):
    subprocess.run(["bash", "-n"], input=_get_block(language), text=True, check=True)


def test_the_jobset_is_yaml_with_a_command_that_parses():
    jobset = yaml.safe_load(_get_block("yaml"))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    words = shlex.split(container["command"][-1])
    assert words[1:3] == [".venv/bin/python", "train.py"]
    assert f"--num_processes={job['parallelism']}" in words
    assert job["parallelism"] == job["completions"]


def test_the_readme_has_at_most_150_lines():
    assert len(README.read_text().splitlines()) <= 150


@each_document
def test_every_setting_named_in_a_document_exists(document):
    text = document.read_text()
    check_keys(re.findall(r"--config\.(seed|[a-z0-9_]+\.[a-z0-9_]+)", text))
    named = len(re.findall(r"--config\.[a-z]", text))
    assert named or document.name not in ("README.md", "clusters.md", "getting-started.md", "data.md")
    assert named == len(re.findall(r"--config\.(?:seed|[a-z0-9_]+\.[a-z0-9_]+)", text))


def test_the_configuration_file_in_getting_started_is_valid(tmp_path, monkeypatch):
    [example] = re.findall(
        r"```python\n([^`]*def get_config.*?)```", (ROOT / "docs" / "getting-started.md").read_text(), re.DOTALL
    )
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    config, _ = parse_config("mine.py", ["--config.data.dir=DIR"])
    check_config(config)
    assert (config.data.source, config.model.alpha, config.train.epochs) == ("isic2018", 0.25, 10)


def test_the_defaults_of_the_split_and_the_cache_are_those_of_the_documents():
    text = (ROOT / "docs" / "data.md").read_text()
    assert "`--config.data.cache=none`, the default of `configs/mobilenet.py`" in text
    assert re.search(r"^\| `lesion` .*\(default\)", text, re.MULTILINE)
    assert (get_config().data.cache, get_config().data.split) == ("none", "lesion")


@each_document
def test_every_python_file_named_in_a_document_exists(document):
    files = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    for name in re.findall(r"(?<![\w./])[\w/]+\.py\b", document.read_text()):
        is_example = "NAME" in name or name in ("cli/export.py", "utils.py", "mine.py", "SWEEP.py")
        assert is_example or (ROOT / name).is_file() or any(file.endswith(f"/{name}") for file in files), name


@each_document
def test_every_command_named_in_a_document_exists_with_its_options(document, capsys):
    for line in _list_code_lines(document.read_text()):
        for command in re.findall(r"\bmobilenet-jax ([a-z-]+)", line):
            with pytest.raises(SystemExit) as exit_:
                main([command, "--help"])
            assert exit_.value.code == 0, line
            options = set(re.findall(r"--[a-z_-]+", capsys.readouterr().out))
            assert set(re.findall(r"(?<=[ \[])--[a-z_-]+", line)) - {"--config"} <= options, line


@each_document
def test_every_benchmark_named_in_a_document_exists(document):
    for module in re.findall(r"\bpython\s+-m\s+(benchmarks\.\w+)", document.read_text()):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@each_document
def test_every_local_link_in_a_document_resolves(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in _list_anchors(file.read_text()), target


def test_every_path_in_the_tree_of_the_architecture_exists():
    paths = _list_tree()
    assert len(paths) == len(set(paths))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_module_is_in_the_tree_of_the_architecture():
    modules = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    named = {path for path in _list_tree() if path.startswith(PACKAGES) and path.endswith(".py")}
    assert named == modules
