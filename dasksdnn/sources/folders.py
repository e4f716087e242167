"""The index of a folder of matrices that was exported: which files make which layer, and what the files do not say."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line, npy_header

INDEX = "network.json"
_FORMAT = "dasksdnn-matrices"


@dataclass(frozen=True, slots=True)
class FolderLayer:
    """Names of a layer's files in the folder, and its activation."""

    weights: str
    bias: str
    activation: str


def write_index(folder: Path, layers: Sequence[FolderLayer], dtype: np.dtype[Any]) -> None:
    """Write the index; `folder` is complete with it."""
    record = {"format": _FORMAT, "dtype": dtype.name, "layers": [asdict(layer) for layer in layers]}
    (folder / INDEX).write_text(json.dumps(record, indent=1) + "\n")


def is_export(folder: Path) -> bool:
    """Whether a folder was exported: it holds an index, and nothing but its files."""
    try:
        layers, _ = read_index(folder)
        known = {INDEX, *(layer.weights for layer in layers), *(layer.bias for layer in layers)}
        return set(os.listdir(folder)) <= known
    except (InputError, OSError):
        return False


def read_index(folder: Path) -> tuple[list[FolderLayer], str]:
    """Read which layers a folder holds, and their dtype.

    Raises
    ------
    InputError
        There is no index, or it is damaged, or names files outside the folder.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder}: has no {INDEX}, so it was not exported; name the files, first layer first")
    try:
        with naming_faults(path):
            record = json.loads(path.read_bytes())
        if record["format"] != _FORMAT:
            raise ValueError(f"its format is {record['format']!r}")
        layers = [FolderLayer(str(e["weights"]), str(e["bias"]), str(e["activation"])) for e in record["layers"]]
        if (dtype := record["dtype"]) not in ("float32", "float64"):
            raise ValueError(f"its dtype is {dtype!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is damaged ({first_line(error)}); export the network again") from None
    for name in (name for layer in layers for name in (layer.weights, layer.bias)):
        if name != os.path.basename(name) or name in ("", ".", "..") or not name.isprintable():
            raise InputError(f"{path}: names {name!r}, which is no file of the folder; export the network again")
    return layers, str(dtype)


def read_bias(path: Path) -> Array:
    """Read a bias of an exported folder; its size is compared with the file's before anything is allocated."""
    with naming_faults(path), open(path, "rb") as file:
        shape, dtype, _ = npy_header(file, path)
        if len(shape) != 1 or dtype not in (np.float32, np.float64):
            raise InputError(f"{path}: is of shape {shape} and {dtype}; a bias is a row of float32 or float64")
        if os.fstat(file.fileno()).st_size - file.tell() != shape[0] * dtype.itemsize:
            raise InputError(f"{path}: does not hold the {shape[0]} numbers that it claims; export the network again")
        return np.fromfile(file, dtype)
