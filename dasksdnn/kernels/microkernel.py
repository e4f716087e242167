"""The innermost product, emitted as vector code: R rows that share their columns, T vectors along the samples.

    acc[r][t] = 0
    for e in columns:                 one pass over the shared columns
        x_t = x[index[e], t]          T vector loads, each used R times
        acc[r][t] += data[r][e] * x_t R x T fused multiply-adds, in registers
    y[r, t] = clamp(acc[r][t] + bias[r], low, high)

Numba cannot be told to keep a block of accumulators in registers, so an intrinsic writes the loop in LLVM's own terms.
Every sample sums in the order of `e`, starting from zero, whatever R and T are: blocking never changes a bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@cache
def vector_bytes() -> int:
    """Width of this machine's vector registers: 64 (AVX-512), 32 (AVX) or 16 (SSE, NEON)."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx") and features.get("fma") else 16


def lanes(itemsize: int, width: int | None = None) -> tuple[int, ...]:
    """The number of values in a vector, as the length of a tuple: Numba compiles code for a tuple's length.

    Parameters
    ----------
    itemsize : int
        Bytes of a value.
    width : int, optional
        Bytes of a vector; by default this machine's.
    """
    return (0,) * ((width or vector_bytes()) // itemsize)


@intrinsic(prefer_literal=True)
def multiply(context, R, vectors, lanes, data, row, length, indices, entry, bias, low, high, x, y, i, s):  # type: ignore[no-untyped-def]
    """Write y[i : i + R, s : s + vectors * lanes].

    R : literal int
    vectors, lanes : tuples with as many items as there are vectors, and as a vector has values
    data, row, length : values; where the first row begins in them; entries of each row
    indices, entry : positions in x; where the shared ones begin in them
    bias, low, high : of all rows; bounds of the result
    x, y : panels in C order
    """
    rows = R.literal_value
    signature = types.void(R, vectors, lanes, data, row, length, indices, entry, bias, low, high, x, y, i, s)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        block = _Block(context, builder, data.dtype, indices.dtype, lanes.count, rows, vectors.count)
        arrays = {name: arguments[at] for name, at in (("data", 3), ("indices", 6), ("bias", 8), ("x", 11), ("y", 12))}
        kinds = {"data": data, "indices": indices, "bias": bias, "x": x, "y": y}
        made = {name: make_array(kinds[name])(context, builder, array) for name, array in arrays.items()}
        block.emit(made, *(arguments[at] for at in (4, 5, 7, 9, 10, 13, 14)))
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """One block of code being written."""

    def __init__(
        self, context: Any, builder: Any, value: Any, position: Any, lanes: int, rows: int, vectors: int
    ) -> None:
        self.b, self.value, self.position = builder, context.get_value_type(value), context.get_value_type(position)
        self.lanes, self.rows, self.vectors = lanes, rows, vectors
        self.size = value.bitwidth // 8
        self.vector = ir.VectorType(self.value, lanes)
        self.zero = ir.Constant(self.vector, [0.0] * lanes)
        name = f"llvm.fmuladd.v{lanes}f{value.bitwidth}"
        self.fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name)

    def emit(self, arrays: Any, row: Any, length: Any, entry: Any, low: Any, high: Any, i: Any, s: Any) -> None:
        b = self.b
        xs, ys = (cgutils.unpack_tuple(b, arrays[name].shape)[1] for name in ("x", "y"))
        first, shared = b.gep(arrays["data"].data, [row]), b.gep(arrays["indices"].data, [entry])
        sums = self._sum(first, length, shared, b.gep(arrays["x"].data, [s]), xs)
        low, high = self._splat(low), self._splat(high)
        for r in range(self.rows):
            at = b.add(i, _I64(r))
            shift = self._splat(b.load(b.gep(arrays["bias"].data, [at])))
            out = b.gep(arrays["y"].data, [b.add(b.mul(at, ys), s)])
            for t in range(self.vectors):
                z = b.fadd(sums[r][t], shift)
                # A NaN passes both comparisons, and stays: it must not be hidden by a bound.
                z = b.select(b.fcmp_ordered("<", z, low), low, z)
                z = b.select(b.fcmp_ordered(">", z, high), high, z)
                b.store(z, self._at(out, t), align=self.size)

    def _sum(self, row: Any, length: Any, entry: Any, x: Any, xs: Any) -> list[list[Any]]:
        """The loop over the columns; its sums, which are zero where there is none."""
        b = self.b
        before, loop, after = b.block, b.append_basic_block("columns"), b.append_basic_block("summed")
        b.cbranch(b.icmp_signed(">", length, _I64(0)), loop, after)
        b.position_at_end(loop)
        e = b.phi(_I64)
        sums = [[b.phi(self.vector) for _ in range(self.vectors)] for _ in range(self.rows)]
        at = b.load(b.gep(entry, [e]))
        at = b.zext(at, _I64) if self.position.width < 64 else at
        source = b.gep(x, [b.mul(at, xs)])
        terms = [b.load(self._at(source, t), align=self.size) for t in range(self.vectors)]
        new = []
        for r in range(self.rows):
            factor = self._splat(b.load(b.gep(row, [b.add(b.mul(length, _I64(r)), e)])))
            new.append([b.call(self.fma, [factor, terms[t], sums[r][t]]) for t in range(self.vectors)])
        following = b.add(e, _I64(1))
        b.cbranch(b.icmp_signed("<", following, length), loop, after)
        e.add_incoming(_I64(0), before)
        e.add_incoming(following, loop)
        b.position_at_end(after)
        return [
            [self._merge(sums[r][t], new[r][t], before, loop) for t in range(self.vectors)] for r in range(self.rows)
        ]

    def _merge(self, held: Any, new: Any, before: Any, loop: Any) -> Any:
        final = self.b.phi(self.vector)
        for phi in (held, final):
            phi.add_incoming(self.zero, before)
            phi.add_incoming(new, loop)
        return final

    def _at(self, start: Any, t: int) -> Any:
        return self.b.bitcast(self.b.gep(start, [_I64(t * self.lanes)]), self.vector.as_pointer())

    def _splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, _I32(0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes))
