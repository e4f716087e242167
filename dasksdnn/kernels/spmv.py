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
from dasksdnn.kernels.vectors import Vectors
from dasksdnn.network import Activation, Array

_I32, _I64 = ir.IntType(32), ir.IntType(64)

#: Bytes that are summed side by side: a vector of 64 bytes, or several narrower ones.
_BYTES = 64


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
        A vector is not contiguous.
    """
    if not (x.flags.c_contiguous and y.flags.c_contiguous):
        raise ValueError("vectors must be contiguous")
    value, (low, high) = data.dtype.type, bounds(activation)
    first, last = part or (0, block.supernodes.size - 1)
    how = (value(low), value(high), beyond_bounds(activation), value(activation.parameter))
    _spmv(block.indptr, block.indices, block.supernodes, first, last, data, bias, *how, x, y)


@intrinsic
def _dot(context, data, at, x, indices, entry, count):  # type: ignore[no-untyped-def]
    """The sum over k < count of data[at + k] * x[indices[entry + k]]; without indices, of x[entry + k]."""
    signature = data.dtype(data, at, x, indices, entry, count)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        vectors = Vectors(context, builder, data.dtype, 8 * _BYTES // data.dtype.bitwidth)
        kinds = {0: data, 2: x} | ({3: indices} if indices != types.none else {})
        held = {n: make_array(kind)(context, builder, arguments[n]).data for n, kind in kinds.items()}
        return _emit_dot(vectors, held[0], arguments[1], held[2], held.get(3), arguments[4], arguments[5])

    return signature, generate


def _emit_dot(v: Vectors, data: Any, at: Any, x: Any, indices: Any, entry: Any, count: Any) -> Any:
    """A loop of whole vectors, summed in halves, then one of what is left."""
    b = v.builder
    whole = b.and_(count, _I64(-v.lanes))
    before, loop, after = b.block, b.append_basic_block("vectors"), b.append_basic_block("summed")
    b.cbranch(b.icmp_signed(">", whole, _I64(0)), loop, after)
    b.position_at_end(loop)
    k, held = b.phi(_I64), b.phi(v.type)
    place = b.add(entry, k)
    terms = v.load(b.gep(x, [place])) if indices is None else _gathered(v, x, indices, place)
    new = v.fma(v.load(b.gep(data, [b.add(at, k)])), terms, held)
    following = b.add(k, _I64(v.lanes))
    b.cbranch(b.icmp_signed("<", following, whole), loop, after)
    k.add_incoming(_I64(0), before)
    k.add_incoming(following, loop)
    b.position_at_end(after)
    total = b.extract_element(v.sum_lanes([v.merge(held, new, before, loop)])[0], _I32(0))
    return _emit_rest(v, total, data, at, x, indices, entry, whole, count)


def _emit_rest(v: Vectors, total: Any, data: Any, at: Any, x: Any, indices: Any, entry: Any, k: Any, count: Any) -> Any:
    b = v.builder
    before, loop, after = b.block, b.append_basic_block("rest"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed("<", k, count), loop, after)
    b.position_at_end(loop)
    e, held = b.phi(_I64), b.phi(v.value)
    place = b.add(entry, e)
    term = b.load(b.gep(x, [place if indices is None else _index(v, indices, place)]))
    new = b.fadd(held, b.fmul(b.load(b.gep(data, [b.add(at, e)])), term))
    following = b.add(e, _I64(1))
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    e.add_incoming(k, before)
    e.add_incoming(following, loop)
    held.add_incoming(total, before)
    held.add_incoming(new, loop)
    b.position_at_end(after)
    final = b.phi(v.value)
    final.add_incoming(total, before)
    final.add_incoming(new, loop)
    return final


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
    longest = 0
    for g in range(first, last):
        longest = max(longest, indptr[supernodes[g] + 1] - indptr[supernodes[g]])
    shared = np.empty(longest, data.dtype)
    for g in range(first, last):
        i, end = supernodes[g], supernodes[g + 1]
        e = indptr[i]
        n = indptr[i + 1] - e
        if end - i > 1:
            for k in range(n):
                shared[k] = x[np.int64(indices[e + k])]
        for r in range(i, end):
            at = e + (r - i) * n
            z = bias[r] + (_dot(data, at, shared, None, 0, n) if end - i > 1 else _dot(data, at, x, indices, at, n))
            z = low if z < low else z
            y[r] = high if z > high else z
    if code:
        transform(y.reshape(1, y.size), 0, 1, supernodes[first], supernodes[last] - supernodes[first], code, parameter)


def warm_up_calls(dtype: np.dtype[Any], positions: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype of weights and one of positions."""
    block, one = make_block(np.zeros(2, np.int64), np.zeros(0, positions), 1), np.zeros(1, dtype)
    return [partial(spmv, block, one[:0], one, Activation("relu"), one, one.copy())]
