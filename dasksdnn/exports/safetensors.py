"""Safetensors files, written a layer at a time: sizes are known beforehand, so the header comes first and data follow.

The format: 8 bytes of the header's length, a JSON object of name -> dtype, shape and offsets, then the arrays.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import IO

import numpy as np

from dasksdnn.exports.outline import Outline
from dasksdnn.network import Array, Layer
from dasksdnn.sources.state import RECORD, write_record

#: Bytes of a dense matrix that are made at once.
_BLOCK = 64 << 20
_NAMES = {"float32": "F32", "float64": "F64", "int64": "I64"}


def write_safetensors(outline: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`."""
    with open(path, "wb") as file:
        file.write(_header(outline, layout))
        for layer in outline.layers():
            if layout == "dense":
                _write_dense(file, layer)
            else:
                weights = layer.weights
                for array in (weights.indptr.astype("<i8"), weights.indices.astype("<i8"), weights.data):
                    _write(file, array)
            _write(file, layer.bias)


def _header(outline: Outline, layout: str) -> bytes:
    kind = _NAMES[outline.net.dtype.name]
    labels = list(zip(outline.names, map(str, outline.activations), outline.net.widths, strict=False))
    header: dict[str, object] = {"__metadata__": {"format": "pt", RECORD: write_record(labels)}}
    position = 0
    for (name, _, _), (outputs, inputs), edges in zip(labels, outline.shapes, outline.edges, strict=True):
        weights: list[tuple[str, str, list[int]]] = [("weight", kind, [outputs, inputs])]
        if layout == "csr":
            sizes = {"crow_indices": ("I64", outputs + 1), "col_indices": ("I64", edges), "values": (kind, edges)}
            weights = [(f"weight.{part}", of, [size]) for part, (of, size) in sizes.items()]
        for part, of, shape in [*weights, ("bias", kind, [outputs])]:
            end = position + int(np.prod(shape, dtype=object)) * int(of[1:]) // 8
            header[f"{name}.{part}"] = {"dtype": of, "shape": shape, "data_offsets": [position, end]}
            position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text


def _write_dense(file: IO[bytes], layer: Layer) -> None:
    """Write dense rows, as many at a time as take `_BLOCK`."""
    weights = layer.weights
    rows = max(1, _BLOCK // (weights.shape[1] * weights.dtype.itemsize))
    for first in range(0, weights.shape[0], rows):
        _write(file, weights[first : first + rows].toarray())


def _write(file: IO[bytes], array: Array) -> None:
    file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
