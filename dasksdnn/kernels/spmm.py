"""The forward product on a panel, bias and activation included.

    y[i, s] = f(bias[i] + sum_e data[e] * x[indices[e], s])      x (inputs, samples) and y (outputs, samples), C order

Every output sums its terms one after the other in the stored order, starting from zero, at every panel width: a
sample's result does not depend on which panel, batch or thread it went through. Rows that share their columns and stand
together (supernodes) are computed together, so that what is loaded of `x` is used several times.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from dasksdnn.kernels.compiling import Call, compiled
from dasksdnn.kernels.microkernel import lanes, multiply
from dasksdnn.network import ACTIVATIONS, Activation, Array

#: Panels are allocated in multiples of this many samples, so that no vector loop has a remainder.
LANES = 16

_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
_LEAKY, _SIGMOID, _TANH = (_CODES[name] for name in ("leaky_relu", "sigmoid", "tanh"))

# "contract" lets a product and a sum become one FMA, the same in every loop; nothing is reassociated.
_compiled = compiled(fastmath={"contract"})


def spmm(
    indptr: Array,
    indices: Array,
    data: Array,
    supernodes: Array,
    bias: Array,
    activation: Activation,
    x: Array,
    y: Array,
    samples: int,
    vector: int | None = None,
) -> None:
    """Write f(W x + bias) into `y`.

    Parameters
    ----------
    indptr, indices, data : arrays of shape (rows + 1,), (nonzeros,), (nonzeros,)
        The row block in CSR; `indices` are positions in `x` (uint16, uint32, int32 or int64).
    supernodes : int array
        Row numbers where `find_supernodes` says that one ends and the next begins: 0, ..., rows.
    bias : array of shape (rows,)
    activation : Activation
    x, y : arrays of shape (>= inputs, width), (>= rows, width)
        Panels in C order, of the dtype of `data`; `y` must not overlap `x`.
    samples : int
        How many columns of the panels to compute, at most their width.
    vector : int, optional
        Bytes of a vector register; by default this machine's.
    """
    if not (x.flags.c_contiguous and y.flags.c_contiguous):
        raise ValueError("panels must be in C order")
    width = min(-(-samples // LANES) * LANES, x.shape[1])
    value = data.dtype.type
    low = value(0 if activation.name in ("relu", "clip") else -np.inf)
    high = value(activation.parameter if activation.name == "clip" else np.inf)
    _spmm(indptr, indices, data, supernodes, bias, low, high, x, y, width, lanes(data.itemsize, vector))
    code = _CODES[activation.name]
    if code in (_LEAKY, _SIGMOID, _TANH):
        _transform(y, indptr.size - 1, width, code, value(activation.parameter))


@_compiled
def _spmm(indptr, indices, data, supernodes, bias, low, high, x, y, width, vector):  # type: ignore[no-untyped-def]
    """Strips of samples one after the other, so that a strip of `x` stays in the cache for all rows."""
    lanes = len(vector)
    s = 0
    if supernodes.size == indptr.size:  # no row has a twin: nothing to share, so more samples at once
        while s + 8 * lanes <= width:
            _strip_of_rows(indptr, indices, data, bias, low, high, x, y, s, vector)
            s += 8 * lanes
    if lanes * data.itemsize == 64:  # 32 registers: room for 4 x 4 sums
        while s + 4 * lanes <= width:
            _strip(indptr, indices, data, supernodes, bias, low, high, x, y, s, vector, (0, 0, 0, 0))
            s += 4 * lanes
    while s + 2 * lanes <= width:
        _strip(indptr, indices, data, supernodes, bias, low, high, x, y, s, vector, (0, 0))
        s += 2 * lanes
    while s + lanes <= width:
        _strip(indptr, indices, data, supernodes, bias, low, high, x, y, s, vector, (0,))
        s += lanes
    while s < width:
        _strip(indptr, indices, data, supernodes, bias, low, high, x, y, s, (0,), (0,))
        s += 1


@_compiled
def _strip(indptr, indices, data, supernodes, bias, low, high, x, y, s, vector, vectors):  # type: ignore[no-untyped-def]
    """All rows for as many samples as `vectors` vectors have, four, two or one of a supernode at a time."""
    for g in range(supernodes.size - 1):
        i, end = supernodes[g], supernodes[g + 1]
        e = indptr[i]
        n = indptr[i + 1] - e
        while i + 4 <= end:
            multiply(4, vectors, vector, data, indptr[i], n, indices, e, bias, low, high, x, y, i, s)
            i += 4
        while i + 2 <= end:
            multiply(2, vectors, vector, data, indptr[i], n, indices, e, bias, low, high, x, y, i, s)
            i += 2
        while i < end:
            multiply(1, vectors, vector, data, indptr[i], n, indices, e, bias, low, high, x, y, i, s)
            i += 1


@_compiled
def _strip_of_rows(indptr, indices, data, bias, low, high, x, y, s, vector):  # type: ignore[no-untyped-def]
    """All rows, one at a time, for eight vectors of samples."""
    for i in range(indptr.size - 1):
        e = indptr[i]
        n = indptr[i + 1] - e
        multiply(1, (0, 0, 0, 0, 0, 0, 0, 0), vector, data, e, n, indices, e, bias, low, high, x, y, i, s)


@_compiled
def _transform(y, rows, width, code, parameter):  # type: ignore[no-untyped-def]
    """Activations that are more than bounds, on what is in the cache still."""
    for i in range(rows):
        out = y[i]
        if code == _LEAKY:
            for s in range(width):
                z = out[s]
                out[s] = parameter * z if z < 0 else z
        elif code == _SIGMOID:
            for s in range(width):
                out[s] = 1 / (1 + math.exp(-out[s]))
        else:
            for s in range(width):
                out[s] = math.tanh(out[s])


@_compiled
def _same_columns(indptr, indices, ends):  # type: ignore[no-untyped-def]
    """Mark in `ends` the rows whose columns are not those of the row before."""
    for i in range(1, indptr.size - 1):
        a, b = indptr[i - 1], indptr[i]
        n = indptr[i + 1] - b
        same = b - a == n
        e = 0
        while same and e < n:
            same = indices[a + e] == indices[b + e]
            e += 1
        ends[i] = not same


def find_supernodes(indptr: Array, indices: Array) -> Array:
    """Find consecutive rows that share their columns.

    Parameters
    ----------
    indptr, indices : arrays
        A row block in CSR.

    Returns
    -------
    int64 array
        0, the first row of each further supernode, and the number of rows; (rows + 1) entries where no row has a twin.
    """
    rows = indptr.size - 1
    ends: Array = np.ones(rows + 1, np.bool_)
    _same_columns(indptr, indices, ends)
    return np.flatnonzero(ends)


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    panel, bias = np.zeros((1, LANES), dtype), np.zeros(1, dtype)
    indptr, indices, data = np.zeros(2, np.int64), np.zeros(0, positions), np.zeros(0, dtype)
    block = (indptr, indices, data, np.arange(2), bias)
    return [
        partial(find_supernodes, indptr, indices),
        *(partial(spmm, *block, Activation(name), panel, panel.copy(), 1) for name in ("relu", "sigmoid")),
    ]
