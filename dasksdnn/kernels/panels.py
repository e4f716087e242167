"""Moving samples in and out of panels: transposed fills, the scan for dead samples, and compaction.

A panel is (neurons, samples) in C order. A dataset's rows are samples, so filling transposes. A sample is dead where
its whole column is zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.network import Array

#: Panels are allocated in multiples of this many samples, so that a vector loop seldom has a remainder.
LANES = 16
#: Rows of samples that are read along at once where they may share places in the first cache, which has no more ways.
ALONG = 8
#: A cache line: vectors that straddle two of them take twice as long to load.
LINE = 64


def new_panel(neurons: int, width: int, dtype: Any) -> Array:
    """An uninitialised panel of shape (neurons, width), aligned to a cache line."""
    size = neurons * width * np.dtype(dtype).itemsize
    held = np.empty(size + LINE, np.uint8)
    start = -held.ctypes.data % LINE
    panel: Array = held[start : start + size].view(dtype).reshape(neurons, width)
    return panel


def widened(panel: Array) -> Array:
    """A copy of a narrow panel, of `LANES` columns, zero where the panel ends."""
    wide = new_panel(panel.shape[0], LANES, panel.dtype)
    wide[:, : panel.shape[1]] = panel
    wide[:, panel.shape[1] :] = 0
    return wide


@compiled
def fill_dense(panel, rows):  # type: ignore[no-untyped-def]
    """Copy `rows` (samples, neurons) transposed into the first columns of `panel` (neurons, width).

    Rows that are whole pages apart would share few places in the cache: of them, few are read along at a time.
    """
    step = ALONG if rows.shape[1] * rows.itemsize % 4096 == 0 else rows.shape[0]
    for first in range(0, rows.shape[0], max(1, step)):
        last = min(first + step, rows.shape[0])
        for j in range(rows.shape[1]):
            for s in range(first, last):
                panel[j, s] = rows[s, j]


@compiled
def gather_targets(targets, rows, out):  # type: ignore[no-untyped-def]
    """Write out[i, s] = targets[s, rows[i]], a few samples at a time: as many rows of targets are read along."""
    for first in range(0, targets.shape[0], ALONG):
        last = min(first + ALONG, targets.shape[0])
        for i in range(rows.size):
            for s in range(first, last):
                out[i, s] = targets[s, rows[i]]


@compiled
def squared_error(y, targets, rows, factor, delta):  # type: ignore[no-untyped-def]
    """Write factor * (y - targets) into `delta`; returns the sum of squared differences, in double precision.

    y, delta : (neurons, width) panels; targets : (samples, neurons); row i of a panel is neuron rows[i]
    """
    total = 0.0
    for first in range(0, targets.shape[0], ALONG):
        last = min(first + ALONG, targets.shape[0])
        for i in range(rows.size):
            for s in range(first, last):
                delta[i, s] = targets[s, rows[i]]
            part = 0.0
            for s in range(first, last):
                difference = y[i, s] - delta[i, s]
                delta[i, s] = difference * factor
                part += np.float64(difference) * np.float64(difference)
            total += part
    return total


@compiled
def fill_csr(panel, neurons, indptr, indices, data, first, last):  # type: ignore[no-untyped-def]
    """Scatter CSR samples `first` to `last` into the first `neurons` rows of `panel`; duplicates add up."""
    for j in range(neurons):
        for s in range(panel.shape[1]):
            panel[j, s] = 0
    for s in range(first, last):
        for e in range(indptr[s], indptr[s + 1]):
            panel[indices[e], s - first] += data[e]


@compiled
def alive(panel, neurons, samples, flags):  # type: ignore[no-untyped-def]
    """Set `flags[s]` where column s of the first `neurons` rows has a non-zero (a NaN counts as one)."""
    for s in range(samples):
        flags[s] = False
    for j in range(neurons):
        row = panel[j]
        for s in range(samples):
            flags[s] |= row[s] != 0


@compiled
def move_columns(source, columns, target, at, neurons):  # type: ignore[no-untyped-def]
    """Copy the named columns of `source` into columns `at`, `at` + 1, ... of `target`."""
    for j in range(neurons):
        for c in range(columns.size):
            target[j, at + c] = source[j, columns[c]]


@compiled
def extract_rows(panel, columns, order, rows):  # type: ignore[no-untyped-def]
    """Write columns of a panel as rows of samples: rows[c, order[i]] = panel[i, columns[c]]."""
    for i in range(order.size):
        for c in range(columns.size):
            rows[c, order[i]] = panel[i, columns[c]]


@compiled
def remap(positions, table, out):  # type: ignore[no-untyped-def]
    """Write table[positions] into `out`; False where a position is beyond the table."""
    limit = table.size
    sound = True
    for e in range(positions.size):
        if positions[e] < limit:
            out[e] = table[positions[e]]
        else:
            sound = False
    return sound


def alive_columns(panel: Array, neurons: int, samples: int) -> Array:
    """Which of the first `samples` columns are alive, as a boolean array of shape (samples,)."""
    flags = np.empty(samples, np.bool_)
    alive(panel, neurons, samples, flags)
    return flags


def warm_up_calls(dtype: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of values."""
    panel, rows, first = np.zeros((1, 16), dtype), np.zeros((1, 1), dtype), np.zeros(1, np.int64)
    table, sizes = np.zeros(1, np.uint32), (np.uint16, np.uint32)
    return [
        partial(fill_dense, panel, rows),
        partial(squared_error, panel, rows, np.zeros(1, np.uint32), panel.dtype.type(0), panel),
        partial(gather_targets, rows, np.zeros(1, np.uint32), panel),
        *(partial(fill_csr, panel, 1, np.zeros(2, i), np.zeros(0, i), rows[0, :0], 0, 1) for i in (np.int32, np.int64)),
        partial(alive_columns, panel, 1, 1),
        partial(move_columns, panel, first, panel, 0, 1),
        partial(extract_rows, panel, first, first, rows),
        *(partial(remap, np.zeros(0, narrow), table, np.zeros(0, wide)) for narrow in sizes for wide in sizes),
    ]
