"""Builds a web page that classifies photographs on the device, as a folder of static files."""

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw

from input_pipeline.atomic_files import remove_leftovers, replace_atomically
from mobilenet_jax.demo.npm import Package, read_package_files
from mobilenet_jax.errors import ExportError
from mobilenet_jax.export.export import check_parent, export_model
from mobilenet_jax.export.formats import Quantization
from mobilenet_jax.weights.orbax import CheckpointName
from mobilenet_jax.weights.weights_file import compute_sha256

_RUNTIME = Package(
    "@litertjs/core",
    "2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
_LOADER = Package(
    "@litertjs/wasm-utils",
    "2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)
# The `compat` build also runs in browsers without relaxed SIMD.
_WASM_FILES = ("wasm/litert_wasm_compat_internal.js", "wasm/litert_wasm_compat_internal.wasm")
_ICON_SIZES = (192, 512)
_ACCENT, _WHITE = "#0b5cad", "#ffffff"


def build_demo(
    model: str | Path,
    out: Path,
    *,
    quantize: Quantization = "none",
    checkpoint: CheckpointName = "best",
    data: str | None = None,
    force: bool = False,
) -> None:
    """Writes the folder of the page, completely or not at all.

    Args:
        model: see `export_model`; it has a classifier.
        out: the folder.
        quantize: see `export_model`.
        checkpoint: see `export_model`.
        data: see `export_model`.
        force: whether to replace an existing page.

    Raises:
        ExportError: the destination is not valid, or the model or the runtime cannot be obtained; see `export_model`.
        OSError: the disk is full or fails.
    """
    _check_destination(out, force=force)
    runtime = _read_runtime()
    remove_leftovers(Path(os.path.realpath(out)).parent)
    with replace_atomically(out) as folder:
        folder.mkdir()
        network = export_model(model, folder / "model.tflite", quantize=quantize, checkpoint=checkpoint, data=data)
        if network["output"]["name"] != "probabilities":
            raise ExportError(f"{model} holds no classifier, only features")
        site = {file.name: file.read_bytes() for file in (files(__package__) / "site").iterdir() if file.is_file()}
        worker = site.pop("service-worker.js")
        for name, content in {**site, **runtime}.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for size in _ICON_SIZES:
            _draw_icon(size).save(folder / f"icon-{size}.png")
        (folder / "service-worker.js").write_bytes(_list_for_worker(folder) + worker)


def _check_destination(out: Path, *, force: bool) -> None:
    check_parent(Path(os.path.realpath(out)))
    if not os.path.lexists(out):
        return
    files = _read_list_of_worker(out)
    if files is None:
        raise ExportError(f"{out} exists and is not a demo: choose another name")
    if not force:
        raise ExportError(f"{out} exists: choose another name, or replace it with --force")
    others = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()} - files
    if others:
        raise ExportError(f"{out} holds {min(others)}, which would be lost: move it, or choose another name")


def _read_runtime() -> dict[str, bytes]:
    """Returns the files of LiteRT.js by their names in the folder of the page."""
    package = read_package_files(_RUNTIME, ["dist/index.js", *_WASM_FILES])
    loader = read_package_files(_LOADER, ["dist/bundle.js"])["dist/bundle.js"]
    # Browsers resolve a bare module name only with an import map, which is an inline script.
    core = package.pop("dist/index.js").replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"')
    named = {"core.js": core, "wasm-utils.js": loader, **package}
    return {f"litert/{name}": content for name, content in named.items()}


def _list_for_worker(folder: Path) -> bytes:
    """Returns the JavaScript that lists all files with their hashes, and a version that changes with any of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): compute_sha256(path) for path in paths}
    listed = json.dumps({"./": hashes["index.html"], **hashes})
    version = hashlib.sha256(listed.encode()).hexdigest()[:16]
    return f"const VERSION = '{version}';\nconst FILES = {listed};\n".encode()


def _read_list_of_worker(folder: Path) -> set[str] | None:
    """Returns the names of the files of a page, or None if a folder holds none."""
    try:
        _, line, *_ = (folder / "service-worker.js").read_text(encoding="utf-8").splitlines()
        return {*json.loads(line.removeprefix("const FILES = ").removesuffix(";")), "service-worker.js"}
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _draw_icon(size: int) -> Image.Image:
    """Draws a magnifying glass; the margin lets a phone cut it to its own shape."""
    icon = Image.new("RGB", (512, 512), _ACCENT)
    draw = ImageDraw.Draw(icon)
    draw.line((300, 300, 392, 392), _WHITE, 44)
    draw.ellipse((120, 120, 344, 344), _ACCENT, _WHITE, 36)
    return icon.resize((size, size), Image.Resampling.LANCZOS)
