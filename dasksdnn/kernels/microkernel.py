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

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.kernels.vectors import FIRST_CACHE, Vectors

_I64 = ir.IntType(64)

#: Blocks of at least so many rows fetch the weights of the row so far ahead: the next supernode's, of sixteen rows.
_STREAMED_ROWS, _ROWS_AHEAD = 4, 16


#: What a product works on, in the order in which its tuple holds it: see `multiply`.
OPERANDS = ("data", "order", "indices", "bias", "low", "high", "before", "slope", "rows", "x", "y")


@intrinsic
def multiply(context, rows, vectors, lanes, operands, row, length, entry, following, i, s):  # type: ignore[no-untyped-def]
    """Write rows i to i + R of y, columns s to s + T * lanes.

    rows, vectors, lanes : tuples of R, T and as many items as a vector has values
    operands : a tuple of
        data, order : values; None, or where each entry's value stands in them (a transposed product reads the values of
            the product forward)
        indices : positions in x
        bias, low, high : forward: of all rows, or None; bounds of the result
        before, slope : backward: None, or a panel like y; sums are multiplied by `slope` where it is not inside the bounds.
            With None for bias and before, the sums are written as they are
        rows : None, or which row of y (and of before) each row is
        x, y : panels in C order
    row, length : the first row's first entry; entries of each row
    entry : where the columns that the rows share begin in the indices
    following : None, or where those of the next rows begin: they are fetched on the way, which the loop has the time for
    """
    kinds = dict(zip(OPERANDS, operands.types, strict=True))
    signature = types.void(rows, vectors, lanes, operands, row, length, entry, following, i, s)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = dict(zip(OPERANDS, cgutils.unpack_tuple(builder, arguments[3]), strict=True))
        named = dict(zip(("row", "length", "entry", "following", "i", "s"), arguments[4:], strict=True)) | values
        arrays = {
            name: make_array(kind)(context, builder, values[name])
            for name, kind in kinds.items()
            if isinstance(kind, types.Array)
        }
        if following == types.none:
            del named["following"]
        vector = Vectors(context, builder, kinds["data"].dtype, lanes.count)
        _Block(vector, rows.count, vectors.count, arrays, named).emit()
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """One block of code being written."""

    def __init__(self, vectors: Vectors, rows: int, count: int, arrays: dict[str, Any], named: dict[str, Any]) -> None:
        self.v, self.b, self.rows, self.count = vectors, vectors.builder, rows, count
        self.arrays, self.named = arrays, named

    def emit(self) -> None:
        b, named = self.b, self.named
        if "before" in self.arrays and self.rows >= _STREAMED_ROWS:
            self._fetch_before()
        sums = self._sum()
        ys = cgutils.unpack_tuple(b, self.arrays["y"].shape)[1]
        for r in range(self.rows):
            at = self._row(r)
            out = self._pointer("y", b.add(b.mul(at, ys), named["s"]))
            for t, z in enumerate(self._finished(sums[r], at)):
                self.v.store(z, out, t)

    def _row(self, r: int) -> Any:
        """Which row of y the sums `r` are."""
        i = self.b.add(self.named["i"], _I64(r))
        return self._position("rows", i) if "rows" in self.arrays else i

    def _finished(self, sums: list[Any], at: Any) -> list[Any]:
        if "bias" in self.arrays:
            return self._bounded(sums, at)
        return self._sloped(sums, at) if "before" in self.arrays else sums

    def _bounded(self, sums: list[Any], at: Any) -> list[Any]:
        """Bias and bounds on the sums of row `at`."""
        b, low, high = self.b, self.v.splat(self.named["low"]), self.v.splat(self.named["high"])
        shift = self.v.splat(b.load(self._pointer("bias", at)))
        finished = []
        for z in sums:
            z = b.fadd(z, shift)
            # A NaN passes both comparisons, and stays: it must not be hidden by a bound.
            z = b.select(b.fcmp_ordered("<", z, low), low, z)
            finished.append(b.select(b.fcmp_ordered(">", z, high), high, z))
        return finished

    def _sloped(self, sums: list[Any], at: Any) -> list[Any]:
        """Sums of row `at` times the derivative of an activation that is bounds, or leaks."""
        b, v = self.b, self.v
        low, high, slope = (v.splat(self.named[name]) for name in ("low", "high", "slope"))
        flat = b.fcmp_ordered("==", slope, v.zero)
        width = cgutils.unpack_tuple(b, self.arrays["before"].shape)[1]
        held = self._pointer("before", b.add(b.mul(at, width), self.named["s"]))
        finished = []
        for t, z in enumerate(sums):
            x = v.load(held, t)
            outside = b.or_(b.fcmp_ordered("<=", x, low), b.fcmp_ordered(">=", x, high))  # of a NaN, never
            # Not a product where the slope is zero: a sum that overflowed would become a NaN.
            leaked = b.select(flat, v.zero, b.fmul(z, slope))
            finished.append(b.select(outside, leaked, z))
        return finished

    def _pointer(self, name: str, at: Any) -> Any:
        return self.b.gep(self.arrays[name].data, [at])

    def _sum(self) -> list[list[Any]]:
        """The loop over the columns; its sums, which are zero where there is none."""
        b, length = self.b, self.named["length"]
        before, loop, after = b.block, b.append_basic_block("columns"), b.append_basic_block("summed")
        b.cbranch(b.icmp_signed(">", length, _I64(0)), loop, after)
        b.position_at_end(loop)
        e = b.phi(_I64)
        sums = [[b.phi(self.v.type) for _ in range(self.count)] for _ in range(self.rows)]
        terms = self._terms(e)
        if "following" in self.named:
            self._fetch(e)
        if self.rows >= _STREAMED_ROWS and "order" not in self.arrays:
            self._stream(e)
        new = []
        for r in range(self.rows):
            factor = self.v.splat(self._weight(r, e))
            new.append([self.v.fma(factor, terms[t], sums[r][t]) for t in range(self.count)])
        following = b.add(e, _I64(1))
        b.cbranch(b.icmp_signed("<", following, length), loop, after)
        e.add_incoming(_I64(0), before)
        e.add_incoming(following, loop)
        b.position_at_end(after)
        return [
            [self.v.merge(sums[r][t], new[r][t], before, loop) for t in range(self.count)] for r in range(self.rows)
        ]

    def _terms(self, e: Any) -> list[Any]:
        """The vectors of x at column `e`."""
        source = self._column("entry", e)
        return [self.v.load(source, t) for t in range(self.count)]

    def _fetch(self, e: Any) -> None:
        """Ask for the vectors of x at column `e` of the next rows."""
        source = self._column("following", e)
        for t in range(self.count):
            self.v.prefetch(self.b.gep(source, [_I64(t * self.v.lanes)]))

    def _fetch_before(self) -> None:
        """Ask for what the sums will be compared with."""
        b, pitch = self.b, cgutils.unpack_tuple(self.b, self.arrays["before"].shape)[1]
        for r in range(self.rows):
            at = b.add(b.mul(self._row(r), pitch), self.named["s"])
            for t in range(self.count):
                self.v.prefetch(self._pointer("before", b.add(at, _I64(t * self.v.lanes))))

    def _stream(self, e: Any) -> None:
        """Ask for the weights of rows to come: they are read once, and must not push panels out of the outer caches."""
        b, named = self.b, self.named
        begin = b.add(named["row"], b.mul(named["length"], _I64(_ROWS_AHEAD)))
        self.v.prefetch(self._pointer("data", b.add(begin, b.mul(e, _I64(self.rows)))), FIRST_CACHE)

    def _column(self, begin: str, e: Any) -> Any:
        """Where the samples of column `e` of some rows stand in x."""
        b = self.b
        at = self._position("indices", b.add(self.named[begin], e))
        xs = cgutils.unpack_tuple(b, self.arrays["x"].shape)[1]
        return self._pointer("x", b.add(b.mul(at, xs), self.named["s"]))

    def _weight(self, r: int, e: Any) -> Any:
        b = self.b
        at = b.add(self.named["row"], b.add(b.mul(self.named["length"], _I64(r)), e))
        if "order" in self.arrays:
            at = self._position("order", at)
        return b.load(self._pointer("data", at))

    def _position(self, name: str, at: Any) -> Any:
        position = self.b.load(self._pointer(name, at))
        return self.b.zext(position, _I64) if position.type.width < 64 else position
