"""The innermost part of a gradient on the pattern, emitted as vector code: dot products of R rows with C rows of a panel.

    acc[r][c] = 0
    for s in blocks of samples:       R + C vector loads, R x C fused multiply-adds, in registers
        acc[r][c] += delta[i + r, s] * x[index[c], s]
    out[r][c] = sum of the lanes of acc[r][c]

Lanes are those of a 64-byte vector on every machine, and they are summed in halves: lane l with lane l + n/2, then with
l + n/4, and so on. So a dot product has the same bits whatever R and C are, and however wide the registers are.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.kernels.vectors import Vectors

_I64 = ir.IntType(64)

#: Bytes of the vectors that dot products are summed in.
BLOCK_BYTES = 64


@intrinsic(prefer_literal=True)
def dots(context, R, C, delta, i, x, indices, entry, samples, out, at, pitch):  # type: ignore[no-untyped-def]
    """Write out[at + r * pitch + c] = sum_s delta[i + r, s] * x[indices[entry + c], s] for r < R, c < C.

    R, C : literal ints; R * C is a power of two, and C at most the lanes of `BLOCK_BYTES`
    delta, i, x : panels in C order, and the first row of delta
    indices, entry : rows of x, and where the first of them is named
    samples : a multiple of the lanes
    out, at, pitch : array of results, where the first goes, and how far apart rows are
    """
    rows, columns = R.literal_value, C.literal_value
    signature = types.void(R, C, delta, i, x, indices, entry, samples, out, at, pitch)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        named = dict(zip(("R", "C", *_ARGUMENTS), arguments, strict=True))
        kinds = {"delta": delta, "x": x, "indices": indices, "out": out}
        arrays = {name: make_array(kind)(context, builder, named[name]) for name, kind in kinds.items()}
        vectors = Vectors(context, builder, delta.dtype, 8 * BLOCK_BYTES // delta.dtype.bitwidth)
        _Dots(vectors, rows, columns, arrays, named).emit()
        return context.get_dummy_value()

    return signature, generate


_ARGUMENTS = ("delta", "i", "x", "indices", "entry", "samples", "out", "at", "pitch")


class _Dots:
    """One block of dot products being written."""

    def __init__(
        self, vectors: Vectors, rows: int, columns: int, arrays: dict[str, Any], named: dict[str, Any]
    ) -> None:
        self.v, self.b, self.rows, self.columns = vectors, vectors.builder, rows, columns
        self.arrays, self.named = arrays, named

    def emit(self) -> None:
        b = self.b
        packed = self.v.sum_lanes(self._sum())
        for r in range(self.rows):
            vector, lane = divmod(r * self.columns, self.v.lanes)
            sums = b.shuffle_vector(packed[vector], packed[vector], self.v.mask(list(range(lane, lane + self.columns))))
            place = b.gep(self.arrays["out"].data, [b.add(self.named["at"], b.mul(self.named["pitch"], _I64(r)))])
            b.store(sums, b.bitcast(place, sums.type.as_pointer()), align=self.v.size)

    def _row(self, name: str, row: Any) -> Any:
        panel = self.arrays[name]
        return self.b.gep(panel.data, [self.b.mul(row, cgutils.unpack_tuple(self.b, panel.shape)[1])])

    def _index(self, c: int) -> Any:
        index = self.b.load(self.b.gep(self.arrays["indices"].data, [self.b.add(self.named["entry"], _I64(c))]))
        return self.b.zext(index, _I64) if index.type.width < 64 else index

    def _sum(self) -> list[Any]:
        """The loop over the samples; R x C sums of vectors, row by row, zero where there is no sample."""
        b, v = self.b, self.v
        left = [self._row("delta", b.add(self.named["i"], _I64(r))) for r in range(self.rows)]
        right = [self._row("x", self._index(c)) for c in range(self.columns)]
        before, loop, after = b.block, b.append_basic_block("samples"), b.append_basic_block("summed")
        b.cbranch(b.icmp_signed(">", self.named["samples"], _I64(0)), loop, after)
        b.position_at_end(loop)
        s = b.phi(_I64)
        sums = [b.phi(v.type) for _ in range(self.rows * self.columns)]
        d = [v.load(b.gep(row, [s])) for row in left]
        new = []
        for c, row in enumerate(right):
            term = v.load(b.gep(row, [s]))
            new.append([v.fma(d[r], term, sums[r * self.columns + c]) for r in range(self.rows)])
        flat = [new[c][r] for r in range(self.rows) for c in range(self.columns)]
        following = b.add(s, _I64(v.lanes))
        b.cbranch(b.icmp_signed("<", following, self.named["samples"]), loop, after)
        s.add_incoming(_I64(0), before)
        s.add_incoming(following, loop)
        b.position_at_end(after)
        return [v.merge(held, ended, before, loop) for held, ended in zip(sums, flat, strict=True)]
