"""What the documents say to type is at least well formed."""

import re
import shlex
import subprocess

import pytest
import yaml

from configs.mobilenet import get_config
from mobilenet_jax.config import check_keys
from tests.helpers.runs import ROOT

CLUSTERS = (ROOT / "docs" / "clusters.md").read_text()


def _block(language):
    [block] = re.findall(rf"```{language}\n(.*?)```", CLUSTERS, re.DOTALL)
    return block


@pytest.mark.parametrize("language", ["sbatch", "sh"])
def test_shell_scripts_parse(language):
    subprocess.run(["bash", "-n"], input=_block(language), text=True, check=True)


def test_the_jobset_is_yaml_with_a_command_that_parses():
    jobset = yaml.safe_load(_block("yaml"))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    words = shlex.split(container["command"][-1])
    assert words[1:3] == [".venv/bin/python", "train.py"]
    assert f"--num_processes={job['parallelism']}" in words
    assert job["parallelism"] == job["completions"]


@pytest.mark.parametrize("document", ["README.md", "docs/clusters.md"])
def test_every_setting_named_in_a_document_exists(document):
    keys = re.findall(r"--config\.([a-z_]+\.[a-z_]+|seed)", (ROOT / document).read_text())
    assert keys
    check_keys(keys)
    assert get_config().data.cache == "none"
