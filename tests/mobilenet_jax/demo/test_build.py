import json

import pytest

from mobilenet_jax.demo import build, npm
from mobilenet_jax.demo.build import build_demo
from mobilenet_jax.demo.npm import Package, read_package_files
from mobilenet_jax.errors import ExportError
from mobilenet_jax.weights.weights_file import compute_sha256

pytest.importorskip("litert_converter", reason="needs pip install -e '.[export]'")


@pytest.fixture
def without_npm(monkeypatch):
    """Replaces the files of npm packages by short ones."""
    content = b'import {x} from "@litertjs/wasm-utils";'
    monkeypatch.setattr(build, "read_package_files", lambda package, names: dict.fromkeys(names, content))


def test_the_service_worker_lists_all_files(without_npm, trained, tmp_path):
    build_demo(trained, tmp_path / "site")
    first, second, *_ = (tmp_path / "site" / "service-worker.js").read_text().splitlines()
    assert first.startswith("const VERSION = '")
    listed = json.loads(second.removeprefix("const FILES = ").removesuffix(";"))
    files = {p.relative_to(tmp_path / "site").as_posix() for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert set(listed) == files - {"service-worker.js"} | {"./"}
    assert listed["./"] == compute_sha256(tmp_path / "site" / "index.html")
    assert '"./wasm-utils.js"' in (tmp_path / "site" / "litert" / "core.js").read_text()
    with pytest.raises(ExportError, match="replace it with --force"):
        build_demo(trained, tmp_path / "site")
    build_demo(trained, tmp_path / "site", force=True)
    (tmp_path / "site" / ".git").mkdir()
    (tmp_path / "site" / ".git" / "HEAD").write_text("")
    with pytest.raises(ExportError, match=r"site holds \.git/HEAD, which would be lost"):
        build_demo(trained, tmp_path / "site", force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "service-worker.js").write_text("// of another application\nself.skipWaiting();\n")
    with pytest.raises(ExportError, match="is not a demo"):
        build_demo(trained, tmp_path / "other", force=True)


def test_nothing_is_left_of_a_build_that_fails(without_npm, trained, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ExportError("failed")

    monkeypatch.setattr(build, "export_model", fail)
    with pytest.raises(ExportError, match="failed"):
        build_demo(trained, tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_packages_with_another_hash_are_refused(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text('#!/bin/sh\necho changed > "$4/a.tgz"\n')
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda name: str(tmp_path / "npm"))
    with pytest.raises(ExportError, match=r"a@1\.0\.0 from npm's registry does not have the pinned SHA-512"):
        read_package_files(Package("a", "1.0.0", "AAAA"), ["b"])


def test_a_missing_npm_is_named(monkeypatch):
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match=r"downloading b@1\.0\.0 requires npm: install Node\.js"):
        read_package_files(Package("b", "1.0.0", "AAAA"), ["c"])
