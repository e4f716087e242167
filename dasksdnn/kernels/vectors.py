"""Vectors of this machine's registers: how wide they are, how many there are, and the few operations that kernels emit."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

#: LLVM's levels of locality of a prefetch: to be kept in every cache, or to be used once.
ALL_CACHES, FIRST_CACHE = 3, 0


@cache
def vector_bytes() -> int:
    """Width of the vector registers that compiled code uses: 64 (AVX-512), 32 (AVX) or 16 (SSE, NEON).

    Numba compiles for the host unless `NUMBA_CPU_NAME` or `NUMBA_CPU_FEATURES` say otherwise, which counts here too.
    """
    from numba.core.registry import cpu_target

    _, features = cpu_target.target_context.codegen().magic_tuple()[1:3]
    held = set(features.split(","))
    if "+avx512f" in held:
        return 64
    return 32 if {"+avx", "+fma"} <= held else 16


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


def shape(itemsize: int, width: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A vector's values, and the rows that a product computes at once for four vectors of samples, as lengths of tuples.

    AVX-512 and NEON have 32 registers: room for 16 sums beside what they are made of. The others have 16: room for 8.
    """
    from platform import machine

    held = width or vector_bytes()
    many = held == 64 or (held == 16 and machine().lower() in ("aarch64", "arm64"))
    return lanes(itemsize, held), (0,) * (4 if many else 2)


class Vectors:
    """Writes vector code of one width for values of one dtype.

    Parameters
    ----------
    context, builder : Numba's context of code generation, and llvmlite's builder.
    value : Numba's type of a value (float32 or float64)
    lanes : int
        Values in a vector.
    """

    def __init__(self, context: Any, builder: Any, value: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.value = context.get_value_type(value)
        self.size = value.bitwidth // 8
        self.type = ir.VectorType(self.value, lanes)
        self.zero = ir.Constant(self.type, [0.0] * lanes)
        name = f"llvm.fmuladd.v{lanes}f{value.bitwidth}"
        self._fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.type, [self.type] * 3), name)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Give a * b + c, rounded once where the machine can."""
        return self.builder.call(self._fma, [a, b, c])

    def load(self, start: Any, t: int = 0) -> Any:
        """Vector `t` from a pointer to values, which need not be aligned."""
        return self.builder.load(self._at(start, t), align=self.size)

    def store(self, vector: Any, start: Any, t: int = 0) -> None:
        """Write a vector where `load` would read it."""
        self.builder.store(vector, self._at(start, t), align=self.size)

    def prefetch(self, place: Any, caches: int = ALL_CACHES) -> None:
        """Ask for the cache line of a place that will be read soon; it need not be inside of its array."""
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch")
        line = self.builder.bitcast(place, _I8.as_pointer())
        self.builder.call(function, [line, _I32(0), _I32(caches), _I32(1)])  # to read; of data

    def splat(self, scalar: Any) -> Any:
        """A vector of one value."""
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _I32(0))
        return self.builder.shuffle_vector(first, undefined, self.mask([0] * self.lanes))

    def merge(self, held: Any, new: Any, before: Any, loop: Any) -> Any:
        """Close a loop's sum: `held` is its value at the head; returns it behind the loop, zero where the loop did not run."""
        final = self.builder.phi(self.type)
        for phi in (held, final):
            phi.add_incoming(self.zero, before)
            phi.add_incoming(new, loop)
        return final

    def sum_lanes(self, vectors: list[Any]) -> list[Any]:
        """Sum the lanes of each of 2^k vectors, in halves; returns vectors that hold the sums in order.

        Pairs of vectors are halved into one, so that as many additions serve all of them:
        [a0 a1 a2 a3], [b0 b1 b2 b3] -> [a0+a2 a1+a3 b0+b2 b1+b3] -> ...
        """
        group = self.lanes
        while group > 1:
            if len(vectors) == 1:
                vectors = [self._halved(vectors[0], vectors[0], vectors[0].type.count // group, group, 1)]
            else:
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                vectors = [self._halved(a, b, self.lanes // group, group, 2) for a, b in pairs]
            group //= 2
        return vectors

    def _halved(self, a: Any, b: Any, groups: int, group: int, sources: int) -> Any:
        """Add the second half of each group of lanes to the first, of `a` and, with two sources, of `b` behind it."""
        size, half = groups * group, group // 2
        first = [source * size + g * group + i for source in range(sources) for g in range(groups) for i in range(half)]
        low = self.builder.shuffle_vector(a, b, self.mask(first))
        high = self.builder.shuffle_vector(a, b, self.mask([i + half for i in first]))
        return self.builder.fadd(low, high)

    @staticmethod
    def mask(positions: list[int]) -> Any:
        """A constant that says which lanes a shuffle takes."""
        return ir.Constant(ir.VectorType(_I32, len(positions)), positions)

    def _at(self, start: Any, t: int) -> Any:
        return self.builder.bitcast(self.builder.gep(start, [_I64(t * self.lanes)]), self.type.as_pointer())
