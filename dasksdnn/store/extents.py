"""Where blocks stand in their window: spans of its arrays, one a layer, from the table of offsets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dasksdnn.network import Array
from dasksdnn.store.encoding import CheckedArray, corrupt
from dasksdnn.store.manifest import Window


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one layer's block stands in the arrays of its window: [start, stop) of each."""

    indptr: tuple[int, int]
    entries: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]


def read_extents(array: CheckedArray, window: Window) -> list[Extent]:
    """Read and check the table of a window: one extent for each of its layers."""
    shape = array.entry.shape
    if shape != (window.last - window.first + 1, 4):
        raise corrupt(array.label, f"has shape {shape}")
    table = array.read().reshape(shape)
    sizes = [window.arrays[name].size for name in ("indptr", "indices", "rows", "columns")]
    if (table[0] != 0).any() or (np.diff(table, axis=0) < 0).any() or (table[-1] != sizes).any():
        raise corrupt(array.label, "does not rise from 0 to the arrays' lengths")
    if window.arrays["data"].size != sizes[1] or window.arrays["bias"].size != sizes[2]:
        raise corrupt(array.label, "the arrays of the window do not fit each other")
    return [Extent(*((int(a), int(b)) for a, b in zip(low, high, strict=True))) for low, high in pairwise(table)]


def span(values: Array, span: tuple[int, int], first: tuple[int, int]) -> Array:
    """Cut one block out of what was read from the start of `first`."""
    return values[span[0] - first[0] : span[1] - first[0]]
