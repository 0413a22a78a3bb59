"""Reads an HDF5 file in a process of its own, since HDF5 crashes on some damaged files. Run by `hdf5.py`, as a script.

    python -P hdf5_worker.py FILE

First it lists the file on a line of JSON; then, for each path that comes in as a line of JSON, it answers with a line
of JSON and the dataset's bytes. It imports nothing of the package, so that it starts in a fifth of a second.

HDF5 is not trusted with more than it must do. By itself it reads files its user never named, through links, virtual
datasets and external storage; allocates whatever size it is told; and unpacks a chunk to whatever it expands to. So no
link is followed, a dataset is looked at before a byte of it is read, and the process has little memory and time.
"""

import json
import math
import os
import re
import resource
import signal
import sys
import zlib
from typing import Any

import h5py
import numpy as np

MAX_OBJECTS = 10_000  # links in a file; a MobileNet with its optimizer's tensors has some 1,500
MAX_DEPTH = 12  # groups in groups; a model in a model in a model has 8
MAX_FILE = 1 << 30  # bytes; more gives no more memory and time
MAX_TEXT = 8 << 20  # bytes of an attribute; the JSON that describes a model has 90 kB
NOT_WEIGHTS = re.compile("(optimizer|optimizer_weights)$|(.*/)?seed_generator")


class RefusedError(Exception):
    """The file is whole, but not what this project reads."""


def limit(file_size: int) -> None:
    """Ends the process when it takes more memory or time than a good file of this size needs."""
    file_size = min(file_size, MAX_FILE)
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * resource.getpagesize()
        most = now + (120 << 20) + 5 * file_size  # HDF5 holds a chunk packed and, in a buffer that doubles, unpacked
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, 1 + file_size / 20e6)  # seconds of processor time; unpacking takes a third
    signal.setitimer(signal.ITIMER_REAL, 20 + file_size / 2e6)  # and of the clock, on a busy machine


def find_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by its path in the file, those of an optimizer or a random generator left out."""
    found: dict[str, h5py.Dataset] = {}
    seen = 0

    def walk(group: h5py.Group, path: str, depth: int) -> None:
        nonlocal seen
        for name in group:
            seen += 1
            if seen > MAX_OBJECTS or depth > MAX_DEPTH:
                raise RefusedError(
                    f"it holds more than {MAX_OBJECTS} objects, or groups {MAX_DEPTH} deep: no MobileNet"
                )
            if not isinstance(name, str) or name in ("", ".") or "/" in name:  # which HDF5 would take for a path
                raise RefusedError(f"{path}: a name in it is {name!r}")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "a soft" if isinstance(link, h5py.SoftLink) else "an external"
                raise RefusedError(f"{path}{name} is {kind} link; links are not followed")
            node = None if NOT_WEIGHTS.match(path + name) else group[name]
            if isinstance(node, h5py.Group):
                walk(node, f"{path}{name}/", depth + 1)
            elif isinstance(node, h5py.Dataset):
                found[path + name] = node

    walk(file, "", 1)
    return found


def text_attributes(node: h5py.Group, *names: str) -> dict[str, str]:
    """Those of these attributes that are there, and are text."""
    found = {}
    for name in names:
        if name in node.attrs and node.attrs.get_id(name).get_storage_size() <= MAX_TEXT:
            value = node.attrs[name]
            text = value.decode() if isinstance(value, bytes) else value
            if isinstance(text, str):
                found[name] = text
    return found


def describe(dataset: h5py.Dataset) -> dict[str, Any]:
    """Its shape and type, and the name of its layer, which Keras 3 leaves at the group around it."""
    layer = text_attributes(dataset.parent, "name").get("name")
    return {"shape": dataset.shape or (), "dtype": str(dataset.dtype), "layer": layer}


def read(dataset: h5py.Dataset) -> np.ndarray:
    """Reads a float32 dataset of a shape that is known to be right."""
    if dataset.is_virtual or dataset.external:
        raise RefusedError("is kept outside the file")
    if dataset.chunks is not None:
        check_chunks(dataset)
    elif dataset.id.get_storage_size() != dataset.nbytes:
        raise RefusedError("was never written")
    return np.ascontiguousarray(dataset)


def check_chunks(dataset: h5py.Dataset) -> None:
    """Unpacks each chunk up to its size and no further; HDF5, which does it again, has no such limit."""
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= {
        h5py.h5z.FILTER_DEFLATE,
        h5py.h5z.FILTER_SHUFFLE,
        h5py.h5z.FILTER_FLETCHER32,
    }:
        raise RefusedError("is packed with another filter than gzip")
    size = 4 * math.prod(dataset.chunks)
    grid = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    if size > max(2 * dataset.nbytes, 1 << 20) or grid > 16 + dataset.nbytes // (16 << 10):
        raise RefusedError(f"of {dataset.shape} is cut into chunks of {dataset.chunks}")
    if dataset.id.get_num_chunks() != grid:
        raise RefusedError("was not written to its end")
    stored: list[Any] = []
    dataset.id.chunk_iter(stored.append)
    for chunk in stored:
        most = size + size // 8 + 1024  # what gzip cannot pack grows a little
        if chunk.size > most:
            raise RefusedError(f"has a chunk of {chunk.size:,} bytes for {size:,}")
        if chunk.filter_mask:
            raise RefusedError("has a chunk that skips a filter")
        if h5py.h5z.FILTER_DEFLATE in filters:
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            if unpacked_size(packed, most) > most:
                raise RefusedError(f"expands to more than its {dataset.nbytes:,} bytes")


def unpacked_size(packed: bytes, most: int) -> int:
    """The bytes something packed by gzip expands to, counted up to `most` and little further; none of them is kept."""
    unpacker, size = zlib.decompressobj(), 0
    while packed and size <= most:
        size += len(unpacker.decompress(packed, 1 << 20))
        packed = unpacker.unconsumed_tail
    return size


def answer(content: dict[str, Any], array: np.ndarray | None = None) -> None:
    """A line of JSON, and after it an array's bytes."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    if array is not None:
        sys.stdout.buffer.write(array.data)
    sys.stdout.buffer.flush()


def serve(path: str) -> None:
    """Lists the file, and answers what it is asked."""
    with h5py.File(path, "r") as file:
        datasets = find_datasets(file)
        attributes = text_attributes(file, "mobilenet_jax", "model_config", "backend")
        if isinstance(file.get("model_weights"), h5py.Group):
            attributes |= text_attributes(file["model_weights"], "backend")
        answer({"datasets": {p: describe(d) for p, d in datasets.items()}, "attributes": attributes})
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                array = read(datasets[asked])
            except RefusedError as error:
                raise RefusedError(f"tensor {asked} {error}") from error
            answer({}, array)


if __name__ == "__main__":
    try:
        limit(os.path.getsize(sys.argv[1]))
        serve(sys.argv[1])
    except RefusedError as error:
        answer({"error": str(error)})
    except Exception as error:  # HDF5 fails on damaged files with almost any error
        answer({"error": f"damaged, or no file of weights ({str(error) or type(error).__name__})"})
