"""The product of a row block with one sample: bound by reading the weights, so it is made for reading them at full speed.

    y[i] = f(bias[i] + sum_e data[e] * x[indices[e]])

A supernode's columns are gathered once and serve all its rows, whose weights then stream. Sums run in vectors along the
entries, so they differ from `spmm`'s by rounding: this kernel is for callers who ask for single samples.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.compiling import Call, compiled
from dasksdnn.kernels.activations import beyond_bounds, bounds, transform
from dasksdnn.kernels.block import Block, make_block
from dasksdnn.kernels.checks import check_values
from dasksdnn.kernels.vectors import Vectors
from dasksdnn.network import Activation, Array

_I32, _I64 = ir.IntType(32), ir.IntType(64)

#: Bytes that are summed side by side: a vector of 64 bytes, or several narrower ones.
_BYTES = 64
#: How far ahead of what is summed the weights are fetched: a page, where the processor's own prefetching ends.
_AHEAD_BYTES = 4096


def spmv(
    block: Block,
    data: Array,
    bias: Array,
    activation: Activation,
    x: Array,
    y: Array,
    *,
    part: tuple[int, int] | None = None,
) -> None:
    """Write f(W x + bias) into `y`.

    Parameters
    ----------
    block : Block
    data, bias : arrays of shape (nonzeros,), (rows,)
        float32 or float64.
    activation : Activation
    x, y : contiguous arrays of shape (>= inputs,), (>= rows,)
        Of the dtype of `data`; `y` must not overlap `x`.
    part : (first, last), optional
        Compute only these supernodes (see `spmm.split_rows`).

    Raises
    ------
    ValueError
        A vector is of another length or dtype than it must be, or not contiguous.
    """
    check_values(data.dtype, data=(data, block.nonzeros), bias=(bias, block.rows), x=(x, x.size), y=(y, y.size))
    if x.size < block.inputs or y.size < block.rows:
        raise ValueError(f"x has {x.size} entries and y {y.size}: they need {block.inputs} and {block.rows}")
    value, (low, high) = data.dtype.type, bounds(activation)
    first, last = part or (0, block.supernodes.size - 1)
    how = (value(low), value(high), beyond_bounds(activation), value(activation.parameter))
    _spmv(block.indptr, block.indices, block.supernodes, first, last, data, bias, *how, x, y)


@intrinsic
def _dot(context, data, at, x, indices, entry, count):  # type: ignore[no-untyped-def]
    """The sum over k < count of data[at + k] * x[indices[entry + k]]; without indices, of x[entry + k].

    The count is a multiple of the lanes of `_BYTES`.
    """
    signature = data.dtype(data, at, x, indices, entry, count)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vectors = Vectors(context, builder, data.dtype, 8 * _BYTES // data.dtype.bitwidth)
        kinds = {0: data, 2: x} | ({3: indices} if indices != types.none else {})
        held = {n: make_array(kind)(context, builder, arguments[n]).data for n, kind in kinds.items()}
        return _emit_dot(vectors, held[0], arguments[1], held[2], held.get(3), arguments[4], arguments[5])

    return signature, generate


def _emit_dot(v: Vectors, data: Any, at: Any, x: Any, indices: Any, entry: Any, count: Any) -> Any:
    """A loop of whole vectors, summed in halves; what is read once is fetched from far ahead."""
    b = v.builder
    before, loop, after = b.block, b.append_basic_block("vectors"), b.append_basic_block("summed")
    b.cbranch(b.icmp_signed(">", count, _I64(0)), loop, after)
    b.position_at_end(loop)
    k, held = b.phi(_I64), b.phi(v.type)
    line, place = b.gep(data, [b.add(at, k)]), b.add(entry, k)
    v.prefetch(b.gep(line, [_I64(_AHEAD_BYTES // v.size)]))
    if indices is not None:
        v.prefetch(b.gep(indices, [b.add(place, _I64(_AHEAD_BYTES // v.size))]))
    terms = v.load(b.gep(x, [place])) if indices is None else _gathered(v, x, indices, place)
    new = v.fma(v.load(line), terms, held)
    following = b.add(k, _I64(v.lanes))
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    k.add_incoming(_I64(0), before)
    k.add_incoming(following, loop)
    b.position_at_end(after)
    return b.extract_element(v.sum_lanes([v.merge(held, new, before, loop)])[0], _I32(0))


def _gathered(v: Vectors, x: Any, indices: Any, place: Any) -> Any:
    """One load a lane: on the machines measured, faster than the gather instruction."""
    b = v.builder
    terms = ir.Constant(v.type, ir.Undefined)
    for lane in range(v.lanes):
        at = _index(v, indices, b.add(place, _I64(lane)))
        terms = b.insert_element(terms, b.load(b.gep(x, [at])), _I32(lane))
    return terms


def _index(v: Vectors, indices: Any, place: Any) -> Any:
    index = v.builder.load(v.builder.gep(indices, [place]))
    return v.builder.zext(index, _I64) if index.type.width < 64 else index


@compiled(fastmath={"contract"})
def _spmv(indptr, indices, supernodes, first, last, data, bias, low, high, code, parameter, x, y):  # type: ignore[no-untyped-def]
    begin, end = supernodes[first], supernodes[last]
    if last - first == end - begin:
        _rows(indptr, indices, begin, end, data, x, y)
    else:
        _supernodes(indptr, indices, supernodes, first, last, data, x, y)
    for i in range(begin, end):
        z = bias[i] + y[i]
        z = low if z < low else z
        y[i] = high if z > high else z
    if code:
        transform(y.reshape(1, y.size), 0, 1, begin, end - begin, code, parameter)


@compiled(fastmath={"contract"})
def _rows(indptr, indices, first, last, data, x, y):  # type: ignore[no-untyped-def]
    """Rows one after the other."""
    e = indptr[first]
    for i in range(first, last):
        end = indptr[i + 1]
        whole = (end - e) & -(_BYTES // data.itemsize)
        z = _dot(data, e, x, indices, e, whole)
        for k in range(e + whole, end):
            z += data[k] * x[np.int64(indices[k])]
        y[i] = z
        e = end


@compiled(fastmath={"contract"})
def _supernodes(indptr, indices, supernodes, first, last, data, x, y):  # type: ignore[no-untyped-def]
    """Gather the next supernode's columns before this one's rows are computed: what was just stored is slow to load."""
    now, then = np.empty(x.size, data.dtype), np.empty(x.size, data.dtype)
    _gather(indptr, indices, supernodes[first], x, now)
    for g in range(first, last):
        if g + 1 < last:
            _gather(indptr, indices, supernodes[g + 1], x, then)
        _twins(indptr, supernodes[g], supernodes[g + 1], data, now, y)
        now, then = then, now


@compiled
def _gather(indptr, indices, i, x, out):  # type: ignore[no-untyped-def]
    """The inputs of row `i`, in its order."""
    e = indptr[i]
    for k in range(indptr[i + 1] - e):
        out[k] = x[np.int64(indices[e + k])]


@compiled(fastmath={"contract"})
def _twins(indptr, first, last, data, inputs, y):  # type: ignore[no-untyped-def]
    """Rows of a supernode, whose inputs stand in the order of its columns."""
    at = indptr[first]
    n = indptr[first + 1] - at
    whole = n & -(_BYTES // data.itemsize)
    for i in range(first, last):
        z = _dot(data, at, inputs, None, 0, whole)
        for k in range(whole, n):
            z += data[at + k] * inputs[k]
        y[i] = z
        at += n


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    block, one = make_block(np.zeros(2, np.int64), np.zeros(0, positions), 1), np.zeros(1, dtype)
    return [partial(spmv, block, one[:0], one, Activation("relu"), one, one.copy())]
