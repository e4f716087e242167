"""Pieces of work that contenders do, with the right answer, the multiply-adds and the fewest bytes that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dasksdnn.errors import DaskSDNNError
from dasksdnn.kernels import reference
from dasksdnn.kernels.block import find_supernodes
from dasksdnn.network import Array, Layer, Network
from dasksdnn.partition.partition import Partition

#: Values gathered at once where a product on a pattern is computed plainly.
GATHERED = 1 << 18


class Work(Protocol):
    """What is compared: see the classes below."""

    @property
    def kind(self) -> str:
        """The function of a peer's module that does it."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that have to be done."""

    def least_bytes(self, index_bytes: int) -> int:
        """Bytes that cross the memory at least, every array once, where nothing stays in a cache."""

    def expected(self) -> Sequence[Array]:
        """What a contender's result has to be, as far as the reference computes it."""

    def compared(self, found: Sequence[Array]) -> Sequence[Array]:
        """That part of a contender's result which `expected` has."""

    def facts(self, found: Sequence[Array]) -> dict[str, int]:
        """What a result says that a report should name."""


class _Whole:
    """The reference computes everything."""

    def compared(self, found: Sequence[Array]) -> Sequence[Array]:
        """All of it."""
        return found

    def facts(self, found: Sequence[Array]) -> dict[str, int]:
        """Nothing but numbers that are right."""
        return {}


@dataclass(frozen=True)
class Forward(_Whole):
    """A panel through consecutive layers.

    Attributes
    ----------
    layers : tuple of Layer
    x : array of shape (inputs, samples)
    """

    layers: tuple[Layer, ...]
    x: Array
    kind = "forward"

    @property
    def samples(self) -> int:
        """Columns of the panel."""
        return int(self.x.shape[1])

    @property
    def multiply_adds(self) -> int:
        """One an edge and sample."""
        return sum(layer.edges for layer in self.layers) * self.samples

    def least_bytes(self, index_bytes: int) -> int:
        """Weights and positions once, each layer's panels read and written once."""
        itemsize = self.x.itemsize
        panels = sum(sum(layer.weights.shape) for layer in self.layers) * self.samples * itemsize
        return sum(layer.edges for layer in self.layers) * (itemsize + index_bytes) + panels

    def expected(self) -> list[Array]:
        """The last layer's outputs (outputs, samples)."""
        return [self.panels[-1]]

    @cached_property
    def panels(self) -> list[Array]:
        """The input and every layer's outputs, of shape (neurons, samples)."""
        made = [self.x]
        for layer in self.layers:
            made.append(reference.forward_layer(layer, made[-1]))
        return made


@dataclass(frozen=True)
class Backward(Forward):
    """A gradient back through consecutive layers: the inputs' (W^T delta) and, on the pattern, the weights'.

    Attributes
    ----------
    delta : array of shape (outputs, samples)
        Gradient of the last layer's sums.
    """

    delta: Array
    kind = "backward"

    @property
    def multiply_adds(self) -> int:
        """One an edge and sample for each of the two products."""
        return 2 * super().multiply_adds

    def least_bytes(self, index_bytes: int) -> int:
        """Both products, each on its own."""
        return 2 * super().least_bytes(index_bytes)

    def expected(self) -> list[Array]:
        """The gradient of the first layer's inputs, and of every layer's stored weights, in double precision."""
        delta, gradients = self.delta.astype(np.float64), []
        for layer, x in self.reversed():
            coo = layer.weights.tocoo()
            gradients.append(on_pattern(coo.row, coo.col, delta, x.astype(np.float64)))
            delta = layer.weights.T.astype(np.float64) @ delta
        return [delta, *gradients[::-1]]

    def reversed(self) -> Iterator[tuple[Layer, Array]]:
        """Layers from the last to the first, each with its input panel."""
        return zip(self.layers[::-1], self.panels[-2::-1], strict=True)


@dataclass(frozen=True)
class Parts(Forward):
    """Many samples through a whole engine, of which the reference runs the first.

    Attributes
    ----------
    split : Partition
        Of the layers; what it costs is compared with one part.
    """

    split: Partition
    kind = "parts"
    #: Samples that are run through the reference.
    CHECKED = 64

    def expected(self) -> list[Array]:
        """The last layer's outputs of the samples that are checked."""
        return Forward(self.layers, self.x[:, : self.CHECKED]).expected()

    def compared(self, found: Sequence[Array]) -> list[Array]:
        """Their columns."""
        return [panel[:, : self.CHECKED] for panel in found]


@dataclass(frozen=True)
class Width1(_Whole):
    """One sample times more weights than any cache holds.

    Attributes
    ----------
    layer : Layer
        Many layers of the same inputs, below one another.
    x : array of shape (inputs,)
    """

    layer: Layer
    x: Array
    kind = "width1"

    @property
    def multiply_adds(self) -> int:
        """One an edge."""
        return self.layer.edges

    def least_bytes(self, index_bytes: int) -> int:
        """Weights, and the positions of each supernode once."""
        indptr = self.layer.weights.indptr
        first = find_supernodes(indptr, self.layer.weights.indices)[:-1]
        return int(self.multiply_adds * self.x.itemsize + (indptr[first + 1] - indptr[first]).sum() * index_bytes)

    def expected(self) -> list[Array]:
        """All outputs."""
        return [reference.forward_layer(self.layer, self.x[:, None])[:, 0]]


@dataclass(frozen=True)
class Challenge:
    """The Graph Challenge: samples in memory, through all layers, to the list of those with a non-zero output.

    Attributes
    ----------
    net : Network
    x : csr_array of shape (samples, inputs)
    """

    net: Network
    x: Any
    kind = "challenge"
    #: Samples that are run through the reference.
    CHECKED = 200

    @property
    def multiply_adds(self) -> int:
        """The challenge's count: edges x samples, whether or not a sample is alive still."""
        return int(self.net.edges * self.x.shape[0])

    def least_bytes(self, index_bytes: int) -> int:
        """The weights and the input."""
        return self.net.edges * (self.net.dtype.itemsize + index_bytes) + int(
            self.x.data.nbytes + self.x.indices.nbytes
        )

    def expected(self) -> list[Array]:
        """Of the samples that are checked, those with a non-zero output."""
        some = self.checked
        return [some[reference.infer(self.net, self.x[some]).any(axis=1)]]

    def compared(self, found: Sequence[Array]) -> list[Array]:
        """The categories among them."""
        return [np.intersect1d(categories, self.checked) for categories in found]

    def facts(self, found: Sequence[Array]) -> dict[str, int]:
        """How many categories there are."""
        return {"categories": int(found[0].size)}

    @cached_property
    def checked(self) -> Array:
        """The samples that the reference runs, ascending."""
        samples = self.x.shape[0]
        return np.unique(np.linspace(0, samples - 1, min(samples, self.CHECKED)).astype(np.int64))


def on_pattern(rows: Array, columns: Array, delta: Array, x: Array, entries: slice = slice(None)) -> Array:
    """The product delta x^T at stored places only, a block of them at a time.

    Parameters
    ----------
    rows, columns : int arrays of shape (nonzeros,)
    delta, x : arrays of shape (outputs, samples), (inputs, samples)
    entries : slice
        Which of the places.

    Returns
    -------
    array of shape (nonzeros in `entries`,)
    """
    rows, columns = rows[entries], columns[entries]
    step = max(1, GATHERED // max(1, delta.shape[1]))
    out = np.empty(rows.size, delta.dtype)
    for start in range(0, rows.size, step):
        at = slice(start, start + step)
        np.einsum("es,es->e", delta[rows[at]], x[columns[at]], out=out[at])
    return out


def check(name: str, found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Hold a contender's result against another that is right.

    Raises
    ------
    DaskSDNNError
        It is something else: categories or shapes differ, or values by more than rounding in another order explains.
    """
    same = [a.shape for a in found] == [b.shape for b in expected]
    wrong = sum(_wrong(a, b) for a, b in zip(found, expected, strict=True)) if same else None
    if wrong == 0:
        return
    which = "their number" if wrong is None else f"{wrong:,} of {sum(b.size for b in expected):,} values"
    raise DaskSDNNError(f"{name} computes something else than the reference ({which}), so it is no peer; report this")


def _wrong(found: Array, right: Array) -> int:
    """How many values differ: none may where they are whole numbers, and a NaN always does."""
    if right.dtype.kind in "iu":
        return int((found != right).sum())
    largest = np.abs(right).max(initial=0)
    return int((~(np.abs(found - right) <= 1e-3 * np.abs(right) + 1e-4 * largest)).sum())
