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
_NOT_WEIGHTS = re.compile("(optimizer|optimizer_weights)/|(.*/)?seed_generator")


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every dataset by its path in the file, those of an optimizer or a random generator left out.

    Raises:
        WeightsError: something in the file is a link to something else, or there is no end of it.
    """
    paths: list[str] = []

    def visit(path: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            kind = "a soft" if isinstance(link, h5py.SoftLink) else "an external"
            raise WeightsError(f"{path} is {kind} link; links are not followed")
        paths.append(path)
        if len(paths) > _MAX_OBJECTS:
            raise WeightsError(f"it holds more than {_MAX_OBJECTS} objects; a MobileNet does not")

    file.visititems_links(visit)
    nodes = {path: file[path] for path in paths if not _NOT_WEIGHTS.match(path)}
    return {path: node for path, node in nodes.items() if isinstance(node, h5py.Dataset)}


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
    if size(chunk) > max(2 * size(shape), 1 << 20) or grid > 16 + size(shape) // 1024:
        raise WeightsError(f"tensor {name} of {shape} is cut into chunks of {chunk}")
    if dataset.id.get_num_chunks() != grid:
        raise WeightsError(f"tensor {name} was not written to its end")
    for i in range(grid):
        mask, packed = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(i).chunk_offset)
        if h5py.h5z.FILTER_DEFLATE in filters and not mask:
            unpacker = zlib.decompressobj()
            unpacker.decompress(packed, size(chunk) + 64)  # with room for a checksum
            if unpacker.unconsumed_tail:
                raise WeightsError(f"tensor {name} expands to more than its {size(shape):,} bytes")
