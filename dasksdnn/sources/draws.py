"""Random draws behind the generators: distinct columns, heavy tails, and a stream of random numbers for each use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.special import ndtri

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer
from dasksdnn.sources.checks import float_dtype, real_number, whole_number

# The second word of each random stream's seed: streams of different use never coincide.
VALUES, PERMUTATION, COLUMNS, MEMBERS, DEGREES = range(5)


@dataclass(frozen=True, slots=True)
class Style:
    """What random and community networks share: seeds, biases, activations, dtype."""

    seed: int
    bias: float
    activation: Activation
    output_activation: Activation
    dtype: np.dtype[Any]
    layers: int

    @classmethod
    def parse(cls, seed: Any, bias: Any, activation: Any, output: Any, dtype: npt.DTypeLike, layers: int) -> Style:
        """Check the arguments."""
        inner = Activation.parse(activation)
        last = inner if output is None else Activation.parse(output)
        return cls(whole_number(seed, "seed", 0), real_number(bias, "bias"), inner, last, float_dtype(dtype), layers)

    def stream(self, use: int, k: int) -> np.random.Generator:
        """Random numbers for one use in layer k, whatever was drawn before."""
        return np.random.default_rng([self.seed, use, k])

    def values(self, k: int, count: int, scale: float) -> Array:
        """Normal weights of layer k."""
        drawn = self.stream(VALUES, k).standard_normal(count, np.float32).astype(self.dtype)
        return np.asarray(drawn * self.dtype.type(scale))

    def layer(self, k: int, weights: Any) -> Layer:
        """Make a layer of its weights."""
        activation = self.output_activation if k == self.layers - 1 else self.activation
        return Layer(weights, np.full(weights.shape[0], self.bias, self.dtype), activation, f"layer {k + 1}")


def parse_widths(neurons: int | Sequence[int], layers: int | None) -> tuple[int, ...]:
    """Widths of the input and of every layer, of either way to say them."""
    if isinstance(neurons, list | tuple | np.ndarray):
        if layers is not None:
            raise InputError(f"layers: {layers} given beside a list of widths; leave one of them out")
        if len(neurons) < 2:
            raise InputError("neurons: a list of widths needs at least an input and one layer")
        return tuple(whole_number(width, f"neurons[{k}]") for k, width in enumerate(neurons))
    if layers is None:
        raise InputError("layers: give the number of layers, or a list of widths as neurons")
    return (whole_number(neurons, "neurons"),) * (whole_number(layers, "layers") + 1)


def distinct_columns(rng: np.random.Generator, rows: int, width: int, degree: int) -> npt.NDArray[np.int64]:
    """Draw `degree` distinct columns of `width` for each row, sorted: an array (rows, degree), uniform over sets."""
    if 4 * degree > width:
        # Redrawing collisions would take long; ranking random keys does not, a slab of rows at a time.
        step = max(1, (1 << 22) // width)
        keys = (rng.random((min(step, rows - r), width), np.float32) for r in range(0, rows, step))
        slabs = [np.argpartition(slab, degree - 1, axis=1)[:, :degree] for slab in keys]
        return np.sort(np.concatenate(slabs), axis=1)
    columns = np.sort(rng.integers(0, width, (rows, degree)), axis=1)
    pending = np.arange(rows)
    while pending.size:
        mine = columns[pending]
        twin = np.zeros(mine.shape, bool)
        twin[:, 1:] = mine[:, 1:] == mine[:, :-1]
        clash = twin.any(axis=1)
        pending, mine, twin = pending[clash], mine[clash], twin[clash]
        mine[twin] = rng.integers(0, width, int(twin.sum()))
        columns[pending] = np.sort(mine, axis=1)
    return columns


def distinct_keys(rng: np.random.Generator, draw: Callable[[Array], Array], degrees: Array, width: int) -> Array:
    """Sorted keys row * width + column, exactly `degrees` of them a row, none twice."""
    keys = np.empty(0, np.int64)
    missing, attempt = degrees, 0
    while missing.any():
        row = np.repeat(np.arange(degrees.size), missing)
        # Popular columns of a small community run out: after some attempts any column will do.
        column = draw(row) if attempt < 4 else rng.integers(0, width, row.size)
        keys = np.sort(np.concatenate([keys, row * width + column]))
        # Not numpy.unique: its hash table (NumPy 2.3 and later) takes ten seconds for such keys.
        keys = keys[np.diff(keys, prepend=-1) > 0]
        missing, attempt = degrees - np.bincount(keys // width, minlength=degrees.size), attempt + 1
    return keys


def lognormal(count: int, sigma: float) -> Array:
    """`count` quantiles of a log-normal distribution, scaled to mean 1: the same heavy tail for every seed."""
    values = np.exp(sigma * ndtri((np.arange(count) + 0.5) / count))
    return np.asarray(values / values.mean())


def row_degrees(rows: int, width: int, degree: int, skew: float) -> Array:
    """Row degrees of mean about `degree`, at least 1 and at most half of the columns, ascending."""
    wanted = np.clip(lognormal(rows, skew) * degree, 1, max(1, width // 2))
    return np.diff(np.rint(np.cumsum(wanted)).astype(np.int64), prepend=0)


def regular_csr(values: Array, columns: Array, width: int) -> Any:
    """CSR of rows that all have as many entries; `columns` (rows, degree) is sorted along each row."""
    rows, degree = columns.shape
    index = np.int32 if columns.size < 2**31 and width < 2**31 else np.int64
    indptr = np.arange(rows + 1, dtype=index) * index(degree)
    return scipy.sparse.csr_array((values, columns.ravel().astype(index, copy=False), indptr), shape=(rows, width))
