"""Rows of panels, packed into messages and back: only the samples that there are, side by side.

expand:  panel[rows] --pack--> message --unpack--> panel[first : first + words]
fold:    panel[first : first + words] --pack--> message --add_up--> panel[rows]
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.panels import LANES


@compiled
def pack(panel, rows, out):  # type: ignore[no-untyped-def]
    """Copy the first columns of some rows of a panel (neurons, width) into `out`, of shape (rows, columns)."""
    for i in range(rows.size):
        source, target = panel[rows[i]], out[i]
        for s in range(target.size):
            target[s] = source[s]


@compiled
def pack_columns(panel, rows, columns, out, at):  # type: ignore[no-untyped-def]
    """Copy the named columns of some rows of a panel into columns `at`, `at` + 1, ... of `out`."""
    for i in range(rows.size):
        source, target = panel[rows[i]], out[i]
        for c in range(columns.size):
            target[at + c] = source[columns[c]]


@compiled
def unpack(message, panel, first):  # type: ignore[no-untyped-def]
    """Copy a message (rows, columns) into rows `first` and following of a panel, and zero up to a whole vector behind it."""
    columns = message.shape[1]
    padded = (columns + LANES - 1) // LANES * LANES
    for i in range(message.shape[0]):
        source, target = message[i], panel[first + i]
        for s in range(columns):
            target[s] = source[s]
        for s in range(columns, padded):
            target[s] = 0


@compiled
def add_up(message, panel, rows):  # type: ignore[no-untyped-def]
    """Add a message (rows, columns) to some rows of a panel."""
    for i in range(rows.size):
        source, target = message[i], panel[rows[i]]
        for s in range(source.size):
            target[s] += source[s]


def warm_up_calls(dtype: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of values."""
    panel, message, rows = np.zeros((1, LANES), dtype), np.zeros((1, 1), dtype), np.zeros(1, np.int64)
    return [
        partial(pack, panel, rows, message),
        partial(pack_columns, panel, rows, rows, message, 0),
        partial(unpack, message, panel, 0),
        partial(add_up, message, panel, rows),
    ]
