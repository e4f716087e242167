"""The machine's limits as compiled loops: fused multiply-adds in registers, reading and copying far beyond the caches.

    fused_multiply_adds    acc[t] = factor * acc[t] + term       T sums that wait for nothing but themselves
    read                   acc[t] += array[i, t]                 T vectors a step, so that loads are all there is

As the kernels' own loop (kernels/microkernel.py) they are written in LLVM's terms: a compiler that may not reassociate
would keep one sum, and one sum waits for itself at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from dasksdnn.compiling import compiled
from dasksdnn.kernels.vectors import lanes
from dasksdnn.network import Array

_I32, _I64 = ir.IntType(32), ir.IntType(64)

#: Sums in flight: more than the latency of an FMA times the FMAs that start at once, fewer than there are registers.
SUMS = 12


class _Sums:
    """A loop over `count` steps that carries vectors of sums."""

    def __init__(self, context: Any, builder: Any, value: Any, lanes: int, sums: int) -> None:
        self.b, self.bits, self.lanes, self.sums = builder, value.bitwidth, lanes, sums
        self.value = context.get_value_type(value)
        self.vector = ir.VectorType(self.value, lanes)

    def emit(self, count: Any, step: Callable[[Any, int, Any], Any]) -> Any:
        """Give the total of all sums after the loop; `step(index, t, sum)` emits the new sum."""
        b, zero = self.b, ir.Constant(self.vector, [0.0] * self.lanes)
        before, loop, after = b.block, b.append_basic_block("step"), b.append_basic_block("summed")
        b.cbranch(b.icmp_signed(">", count, _I64(0)), loop, after)
        b.position_at_end(loop)
        i, held = b.phi(_I64), [b.phi(self.vector) for _ in range(self.sums)]
        new = [step(i, t, held[t]) for t in range(self.sums)]
        following = b.add(i, _I64(1))
        b.cbranch(b.icmp_signed("<", following, count), loop, after)
        i.add_incoming(_I64(0), before)
        i.add_incoming(following, loop)
        b.position_at_end(after)
        final = [b.phi(self.vector) for _ in range(self.sums)]
        for phi, last, value in zip([*held, *final], [*new, *new], [zero] * 2 * self.sums, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(last, loop)
        return self._total(final)

    def _total(self, vectors: list[Any]) -> Any:
        total = vectors[0]
        for vector in vectors[1:]:
            total = self.b.fadd(total, vector)
        scalar = self.b.extract_element(total, _I32(0))
        for lane in range(1, self.lanes):
            scalar = self.b.fadd(scalar, self.b.extract_element(total, _I32(lane)))
        return scalar

    def splat(self, scalar: Any) -> Any:
        """A vector of one value."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(undefined, scalar, _I32(0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes))


@intrinsic
def _fma(context, lanes, sums, count, factor, term):  # type: ignore[no-untyped-def]
    """`sums` vectors, each multiplied and added to `count` times; gives the total of all their values."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        loop = _Sums(context, builder, factor, lanes.count, sums.count)
        kind = ir.FunctionType(loop.vector, [loop.vector] * 3)
        name = f"llvm.fma.v{loop.lanes}f{loop.bits}"
        call = cgutils.get_or_insert_function(builder.module, kind, name)
        by, plus = loop.splat(arguments[3]), loop.splat(arguments[4])
        return loop.emit(arguments[2], lambda i, t, held: builder.call(call, [held, by, plus]))

    return factor(lanes, sums, count, factor, term), generate


@intrinsic
def _sum(context, lanes, sums, count, array):  # type: ignore[no-untyped-def]
    """The total of the first `count` steps of `sums` vectors of `array`."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        loop = _Sums(context, builder, array.dtype, lanes.count, sums.count)
        data = make_array(array)(context, builder, arguments[3]).data
        width = _I64(loop.lanes * loop.sums)

        def step(i: Any, t: int, held: Any) -> Any:
            place = builder.gep(data, [builder.add(builder.mul(i, width), _I64(t * loop.lanes))])
            vector = builder.bitcast(place, loop.vector.as_pointer())
            return builder.fadd(held, builder.load(vector, align=loop.bits // 8))

        return loop.emit(arguments[2], step)

    return array.dtype(lanes, sums, count, array), generate


@compiled
def _run_fma(lanes, sums, count, factor, term, total):  # type: ignore[no-untyped-def]
    # Into memory: a pure value might be computed after the GIL is taken back, and threads would wait for one another.
    total[0] = _fma(lanes, sums, types.int64(count), factor, term)


@compiled
def _run_sum(lanes, sums, array):  # type: ignore[no-untyped-def]
    steps = array.size // (len(lanes) * len(sums))
    total = _sum(lanes, sums, types.int64(steps), array)
    for i in range(steps * len(lanes) * len(sums), array.size):
        total += array[i]
    return total


@compiled
def copy(source, target):  # type: ignore[no-untyped-def]
    """Copy `source` into `target`, arrays of one shape (values,)."""
    for i in range(source.size):
        target[i] = source[i]


def fused_multiply_adds(steps: int, factor: Any, term: Any) -> Any:
    """Do `steps` x `multiply_adds_a_step` fused multiply-adds.

    Parameters
    ----------
    steps : int
    factor, term : NumPy floats of one dtype
        Each of the sums s, zero at first, becomes s * factor + term at every step.

    Returns
    -------
    float
        The total of all sums.
    """
    total = np.empty(1, factor.dtype)
    _run_fma(lanes(factor.itemsize), (0,) * SUMS, steps, factor, term, total)
    return total[0]


def multiply_adds_a_step(itemsize: int) -> int:
    """Multiply-adds of one step of `fused_multiply_adds` on values of that many bytes."""
    return SUMS * len(lanes(itemsize))


def read(array: Array) -> Any:
    """Read an array of floats of shape (values,) once from end to end, and return its total."""
    return _run_sum(lanes(array.itemsize), (0,) * SUMS, array)
