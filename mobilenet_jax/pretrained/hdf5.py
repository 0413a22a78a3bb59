"""Reads HDF5 without trusting it: no link is followed, and a dataset is looked at before a byte of it is read.

HDF5 by itself reads files its user never named, through links, virtual datasets and external storage; allocates
whatever size it is told; and unpacks a chunk to whatever it expands to.
"""

import math
import re
import zlib
from typing import Any

import h5py
import numpy as np

from mobilenet_jax.pretrained.tensors import WeightsError, size

_MAX_OBJECTS = 10_000  # links in a file; a MobileNet with its optimizer's tensors has some 1,500
_MAX_TEXT = 8 << 20  # bytes of an attribute; the JSON that describes a model has 90 kB
_MAX_DEPTH = 12  # groups in groups; a model in a model in a model has 8
_NOT_WEIGHTS = re.compile("(optimizer|optimizer_weights)$|(.*/)?seed_generator")


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by its path in the file, those of an optimizer or a random generator left out.

    Raises:
        WeightsError: something in the file is a link to something else, or there is no end of it.
    """
    found: dict[str, h5py.Dataset] = {}
    seen = 0

    def walk(group: h5py.Group, path: str, depth: int) -> None:
        nonlocal seen
        for name in group:
            seen += 1
            if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                raise WeightsError(
                    f"it holds more than {_MAX_OBJECTS} objects, or groups {_MAX_DEPTH} deep: no MobileNet"
                )
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "a soft" if isinstance(link, h5py.SoftLink) else "an external"
                raise WeightsError(f"{path}{name} is {kind} link; links are not followed")
            node = None if _NOT_WEIGHTS.match(path + name) else group[name]
            if isinstance(node, h5py.Group):
                walk(node, f"{path}{name}/", depth + 1)
            elif isinstance(node, h5py.Dataset):
                found[path + name] = node

    walk(file, "", 1)
    return found


def text_attribute(node: h5py.Group, name: str) -> str | None:
    """An attribute, None if it is not there or no text."""
    if name not in node.attrs or node.attrs.get_id(name).get_storage_size() > _MAX_TEXT:
        return None
    value = node.attrs[name]
    text = value.decode() if isinstance(value, bytes) else value
    return text if isinstance(text, str) else None


def read(dataset: h5py.Dataset) -> np.ndarray:
    """Reads a dataset whose shape and type are known to be right.

    Raises:
        WeightsError: its bytes are not all in the file, or expand to more than that.
    """
    if dataset.is_virtual or dataset.external:
        raise WeightsError(f"tensor {dataset.name} is kept outside the file")
    if dataset.chunks is not None:
        _check_chunks(dataset)
    elif dataset.id.get_storage_size() != size(dataset.shape):
        raise WeightsError(f"tensor {dataset.name} was never written")
    return np.asarray(dataset)


def _check_chunks(dataset: h5py.Dataset) -> None:
    """Unpacks each chunk up to its size and no further; HDF5, which does it again, has no such limit."""
    name, shape, chunk = dataset.name, dataset.shape, dataset.chunks
    creation = dataset.id.get_create_plist()
    filters = {creation.get_filter(i)[0] for i in range(creation.get_nfilters())}
    if not filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}:
        raise WeightsError(f"tensor {name} is packed with another filter than gzip")
    grid = math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    if size(chunk) > max(2 * size(shape), 1 << 20) or grid > 16 + size(shape) // (16 << 10):
        raise WeightsError(f"tensor {name} of {shape} is cut into chunks of {chunk}")
    if dataset.id.get_num_chunks() != grid:
        raise WeightsError(f"tensor {name} was not written to its end")
    stored: list[Any] = []
    dataset.id.chunk_iter(stored.append)
    for info in stored:
        packed_limit = size(chunk) + size(chunk) // 8 + 1024  # what gzip cannot pack grows a little
        if info.size > packed_limit:
            raise WeightsError(f"tensor {name} has a chunk of {info.size:,} bytes for {size(chunk):,}")
        if h5py.h5z.FILTER_DEFLATE in filters and not info.filter_mask:
            unpacker = zlib.decompressobj()
            _, packed = dataset.id.read_direct_chunk(info.chunk_offset)
            unpacker.decompress(packed, packed_limit)
            if unpacker.unconsumed_tail:
                raise WeightsError(f"tensor {name} expands to more than its {size(shape):,} bytes")
