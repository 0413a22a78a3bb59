"""Reads an HDF5 file in a separate process, because HDF5 crashes on some damaged files. `worker.py` runs this script.

    python -P hdf5_worker.py FILE

It first writes the list of the file's datasets as one line of JSON. Then it reads dataset paths from stdin, one JSON
string per line, and answers each with a line of JSON and the dataset's bytes. It imports nothing of the package, so
that it starts in a fifth of a second.

HDF5 is trusted with as little as possible. By itself it reads other files through links, virtual datasets and external
storage, allocates any size that a file claims, and unpacks a chunk to any size. Therefore no link is followed, a
dataset is validated before any of its bytes is read, and the process has little memory and time.
"""

import json
import math
import os
import re
import signal
import sys
import zlib
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

MAX_OBJECTS = 10_000  # links in a file; a MobileNet with its optimizer's tensors has about 1,500
MAX_DEPTH = 12  # nested groups; a model in a model in a model has 8
MAX_FILE = 1 << 30  # bytes; larger files get no more memory and time
MAX_TEXT = 8 << 20  # bytes of an attribute; the JSON that describes a model has 90 kB
NOT_WEIGHTS = re.compile("(optimizer|optimizer_weights)$|(.*/)?seed_generator")
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


class RefusedError(Exception):
    """The file is intact, but not supported or not safe to read."""


def limit_resources(file_size: int) -> None:
    """Ends this process when it takes more memory or time than an intact file of this size needs.

    Only Linux has both limits. macOS limits the time, Windows nothing.
    """
    file_size = min(file_size, MAX_FILE)
    if os.path.exists("/proc/self/statm"):
        import resource  # POSIX only

        with open("/proc/self/statm") as statm:
            current = int(statm.read().split()[0]) * resource.getpagesize()
        # HDF5 holds a chunk packed and, in a buffer that doubles as it grows, unpacked.
        limit = current + (120 << 20) + 5 * file_size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 1 + file_size / 20e6)  # seconds of processor time; unpacking takes a third
        signal.setitimer(signal.ITIMER_REAL, 20 + file_size / 2e6)  # seconds of real time, on a busy machine


def find_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Returns every dataset by its path in the file, except those of an optimizer or a random generator."""
    datasets: dict[str, h5py.Dataset] = {}
    count = 0

    def walk(group: h5py.Group, path: str, depth: int) -> None:
        nonlocal count
        for name in group:
            count += 1
            if count > MAX_OBJECTS or depth > MAX_DEPTH:
                raise RefusedError(
                    f"not a MobileNet: it holds more than {MAX_OBJECTS} objects, or groups nested more than "
                    f"{MAX_DEPTH} deep"
                )
            check_link(group, path, name)
            node = None if NOT_WEIGHTS.match(path + name) else group[name]
            if isinstance(node, h5py.Group):
                walk(node, f"{path}{name}/", depth + 1)
            elif isinstance(node, h5py.Dataset):
                datasets[path + name] = node

    walk(file, "", 1)
    return datasets


def check_link(group: h5py.Group, path: str, name: str) -> None:
    """Refuses links that lead elsewhere, and names that HDF5 would interpret as a path."""
    if not isinstance(name, str) or name in ("", ".") or "/" in name:
        raise RefusedError(f"{path or '/'} contains the name {name!r}, which is not valid")
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        article = "a soft" if isinstance(link, h5py.SoftLink) else "an external"
        raise RefusedError(f"{path}{name} is {article} link; links are not followed")


def get_text_attributes(node: h5py.Group, *names: str) -> dict[str, str]:
    """Returns the attributes of these names that exist and are text."""
    texts = {}
    for name in names:
        if name in node.attrs:
            if node.attrs.get_id(name).get_storage_size() > MAX_TEXT:
                raise RefusedError(f"its attribute {name} has more than {MAX_TEXT:,} bytes")
            value = node.attrs[name]
            text = value.decode() if isinstance(value, bytes) else value
            if isinstance(text, str):
                texts[name] = text
    return texts


def get_positions(file: h5py.File, datasets: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Returns the positions that Keras 1 and 2 record, by the path of the dataset.

    They are that of the layer in the model, and that of the tensor in the layer, which can be a model itself.

    Args:
        file: the file.
        datasets: the paths that `find_datasets` found. Other groups, in which there may be links, are not opened.
    """
    prefix = "model_weights/" if isinstance(file.get("model_weights"), h5py.Group) else ""
    inner = [path.removeprefix(prefix) for path in datasets if path.startswith(prefix)]
    groups, positions = {path.partition("/")[0] for path in inner if "/" in path}, {}
    for i, layer in enumerate(list_names(file[prefix or "/"], "layer_names")):
        if layer in groups:
            for j, tensor in enumerate(list_names(file[prefix + layer], "weight_names")):
                positions[f"{prefix}{layer}/{tensor}"] = i, j
    return positions


def list_names(group: h5py.Group, attribute: str) -> list[str]:
    """Returns the names in an attribute; none if it does not exist or is too large."""
    stored = group.attrs.get_id(attribute) if attribute in group.attrs else None
    if stored is None or stored.shape is None or math.prod(stored.shape) * stored.dtype.itemsize > MAX_TEXT:
        return []
    names = np.atleast_1d(group.attrs[attribute]).ravel().tolist()
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def describe(dataset: h5py.Dataset, position: tuple[int, int] | None) -> dict[str, Any]:
    """Returns the shape, the type and the position, and the name of the layer, which Keras 3 stores in its group.

    Args:
        dataset: the dataset.
        position: see `get_positions`; None if the file does not record it.
    """
    layer = get_text_attributes(dataset.parent, "name").get("name")
    return {"shape": dataset.shape or (), "dtype": str(dataset.dtype), "layer": layer, "position": position}


def read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    """Reads a float32 dataset. Its shape has been compared with that of the model."""
    if dataset.is_virtual or dataset.external:
        raise RefusedError("is stored outside the file")
    if dataset.chunks is not None:
        check_chunks(dataset)
    elif dataset.id.get_storage_size() != dataset.nbytes:
        raise RefusedError("was never written")
    return np.ascontiguousarray(dataset)


def check_chunks(dataset: h5py.Dataset) -> None:
    """Unpacks each chunk up to its expected size and no further. HDF5, which unpacks it again, has no such limit."""
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= FILTERS:
        raise RefusedError("is compressed with a filter other than gzip")
    size = 4 * math.prod(dataset.chunks)
    grid = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    if size > max(2 * dataset.nbytes, 1 << 20) or grid > 16 + dataset.nbytes // (16 << 10):
        raise RefusedError(f"of shape {dataset.shape} is cut into chunks of {dataset.chunks}")
    if dataset.id.get_num_chunks() != grid:
        raise RefusedError("was not written completely")
    stored: list[Any] = []
    dataset.id.chunk_iter(stored.append)
    for chunk in stored:
        limit = size + size // 8 + 1024  # data that gzip cannot compress grows a little
        if chunk.size > limit:
            raise RefusedError(f"has a chunk of {chunk.size:,} bytes for {size:,}")
        if chunk.filter_mask:
            raise RefusedError("has a chunk that skips a filter")
        if h5py.h5z.FILTER_DEFLATE in filters:
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            if count_unpacked_bytes(packed, limit) > limit:
                raise RefusedError(f"expands to more than its {dataset.nbytes:,} bytes")


def count_unpacked_bytes(packed: bytes, limit: int) -> int:
    """Counts the bytes that gzip data expand to, up to little more than `limit`. None of them is kept."""
    unpacker, count = zlib.decompressobj(), 0
    while packed and count <= limit:
        count += len(unpacker.decompress(packed, 1 << 20))
        packed = unpacker.unconsumed_tail
    return count


def send(content: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Writes one line of JSON, and after it an array's bytes."""
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    if array is not None:
        sys.stdout.buffer.write(array.data)
    sys.stdout.buffer.flush()


def serve(path: str) -> None:
    """Lists the datasets of a file, and then reads those that stdin requests."""
    with h5py.File(path, "r") as file:
        datasets = find_datasets(file)
        attributes = get_text_attributes(file, "mobilenet_jax", "model_config", "backend")
        if isinstance(file.get("model_weights"), h5py.Group):
            attributes |= get_text_attributes(file["model_weights"], "backend")
        positions = get_positions(file, datasets)
        descriptions = {name: describe(dataset, positions.get(name)) for name, dataset in datasets.items()}
        send({"datasets": descriptions, "attributes": attributes})
        for line in sys.stdin:
            name = json.loads(line)
            try:
                array = read_dataset(datasets[name])
            except RefusedError as error:
                raise RefusedError(f"tensor {name} {error}") from error
            send({}, array)


if __name__ == "__main__":
    try:
        limit_resources(os.path.getsize(sys.argv[1]))
        serve(sys.argv[1])
    except RefusedError as error:
        send({"error": str(error)})
    except Exception as error:  # HDF5 raises almost any type for damaged files
        send({"error": f"damaged, or not weights ({str(error) or type(error).__name__})"})
