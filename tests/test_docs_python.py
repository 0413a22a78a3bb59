"""Every Python block of every document runs, with small files in the place of real ones."""

import pytest

from tests.helpers.documents import PREPARATIONS, run_python_blocks
from tests.helpers.runs import ROOT

DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("*.md", "docs/*.md", "benchmarks/results/*.md")
    for path in ROOT.glob(pattern)
}


def test_every_document_with_python_has_its_files():
    assert {name for name, text in DOCUMENTS.items() if "```py" in text} == set(PREPARATIONS)


@pytest.mark.parametrize("name", PREPARATIONS)
def test_every_python_block_of_a_document_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = PREPARATIONS[name](tmp_path)
    assert run_python_blocks(DOCUMENTS[name], names) == DOCUMENTS[name].count("```python\n")
