"""Fetches files of npm packages, by pinned versions and hashes."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from input_pipeline.atomic_files import write_atomically
from input_pipeline.user_cache import create_cache_folder
from mobilenet_jax.errors import ExportError


class Package(NamedTuple):
    """A version of an npm package.

    Attributes:
        name: such as `@litertjs/core`.
        version: such as `2.5.3`.
        sha512: of its archive, in base64, as npm records it.
    """

    name: str
    version: str
    sha512: str


def read_package_files(package: Package, names: list[str]) -> dict[str, bytes]:
    """Returns files of a package by their names in it.

    The archive is downloaded once, from the registry that npm is configured for, and kept in the user's cache.

    Raises:
        ExportError: npm is not installed or fails, or the archive does not have the pinned hash.
        UserError: the cache cannot be written.
    """
    archive = create_cache_folder("npm") / f"{package.name.replace('/', '-')}-{package.version}.tgz"
    if not archive.is_file() or not _has_hash(archive, package):
        _download(package, archive)
    with tarfile.open(archive) as content:
        members = {name: content.extractfile(f"package/{name}") for name in names}
        return {name: member.read() for name, member in members.items() if member}


def _download(package: Package, archive: Path) -> None:
    npm = shutil.which("npm")
    specification = f"{package.name}@{package.version}"
    if not npm:
        raise ExportError(f"downloading {specification} requires npm: install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", specification, "--pack-destination", folder, "--ignore-scripts", "--loglevel=error"]
        result = subprocess.run(command, capture_output=True, text=True)
        files = list(Path(folder).glob("*.tgz"))
        if result.returncode or len(files) != 1:
            lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
            raise ExportError(f"npm cannot fetch {specification} ({lines[0][:200]})")
        if not _has_hash(files[0], package):
            raise ExportError(f"{specification} from npm's registry does not have the pinned SHA-512: not used")
        write_atomically(archive, files[0].read_bytes())


def _has_hash(archive: Path, package: Package) -> bool:
    return base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == package.sha512
