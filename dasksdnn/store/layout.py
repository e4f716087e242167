"""Names, places and limits of the store format, version 1.

    net.zarr/
      owner                         the part that owns each neuron, layer after layer
      parts/0000/0000/structure/    offsets, indptr, indices, rows, columns     part 0, window 0
      parts/0000/0000/state-000000/ data, bias                                  generation 0
      checkpoints/000000            copies of the manifests of earlier generations that are kept
      manifest                      written last: it is the commit

The specification is storage/spec/v1.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = "dasksdnn"
VERSION = 1

#: Elements of an inner chunk: what is compressed, checksummed, digested and read at the least.
CHUNK = 1 << 18
#: Decoded bytes of a window, about; a layer's block that is larger is a window of its own.
WINDOW_BYTES = 64 << 20
#: All the windows that a writer holds open at once take no more than this, so that many parts mean smaller windows.
OPEN_BYTES = 512 << 20

STRUCTURE = ("offsets", "indptr", "indices", "rows", "columns")
STATE = ("data", "bias")
#: The group of the manifests that are kept.
CHECKPOINTS = "checkpoints"


def window_path(part: int, window: int) -> str:
    """Path of a window's group."""
    return f"parts/{part:04d}/{window:04d}"


def structure_path(part: int, window: int, array: str) -> str:
    """Path of one of a window's `STRUCTURE` arrays."""
    return f"{window_path(part, window)}/structure/{array}"


def state_path(part: int, window: int, generation: int, array: str) -> str:
    """Path of one array of a window's state: one of `STATE`, or an optimizer's moments."""
    return f"{generation_path(part, window, generation)}/{array}"


def generation_path(part: int, window: int, generation: int) -> str:
    """Path of the group of one generation of a window's state."""
    return f"{window_path(part, window)}/state-{generation:06d}"


def checkpoint_path(generation: int) -> str:
    """Path of the group that keeps a generation's manifest."""
    return f"{CHECKPOINTS}/{generation:06d}"


def index_dtype(positions: int) -> np.dtype[Any]:
    """The narrowest dtype that numbers that many positions in an input panel."""
    return np.dtype(np.uint16 if positions <= 1 << 16 else np.uint32)


def owner_dtype(nparts: int) -> np.dtype[Any]:
    """The narrowest dtype of a part's number."""
    return np.dtype(np.int16 if nparts <= 1 << 15 else np.int32)


def window_bytes(nparts: int) -> int:
    """Decoded bytes at which a writer of that many parts closes a window."""
    return max(1 << 20, min(WINDOW_BYTES, OPEN_BYTES // nparts))


def block_bytes(rows: int, columns: int, nonzeros: int, dtype: npt.DTypeLike, index: npt.DTypeLike) -> int:
    """Decoded bytes of one row block in a window."""
    value, position = np.dtype(dtype).itemsize, np.dtype(index).itemsize
    return nonzeros * (value + position) + (rows + 1) * 8 + rows * (4 + value) + columns * 4
