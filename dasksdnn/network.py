"""The network: a sequence of sparse layers, checked when they are made, and loaded one at a time.

    x_k = f_k(W_k x_{k-1} + b_k),   W_k of shape (widths[k], widths[k-1]),   k = 1 .. L

A `Network` never has to be in memory: it knows its widths, and makes layer k when it is asked for it. Generators,
files and stores are all networks in this sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn import markup
from dasksdnn.errors import InputError

Array = npt.NDArray[Any]

#: Activations, by name; the value tells whether the name takes a parameter.
ACTIVATIONS = {"identity": False, "relu": False, "clip": True, "leaky_relu": True, "sigmoid": False, "tanh": False}


@dataclass(frozen=True, slots=True)
class Activation:
    """An element-wise activation.

    `clip` is min(max(z, 0), parameter); `leaky_relu` is z where z > 0, else parameter * z. The others take no
    parameter. As text: a name, or name:parameter ("clip:32").

    Parameters
    ----------
    name : {"identity", "relu", "clip", "leaky_relu", "sigmoid", "tanh"}
    parameter : float
        Of clip, the largest output; of leaky_relu, the slope below zero.

    Raises
    ------
    InputError
        The name is unknown, or the parameter is not usable.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> str(sdnn.Activation("clip", 32.0))
    'clip:32'
    """

    name: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise InputError(f"unknown activation {self.name!r}: use one of {', '.join(ACTIVATIONS)}")
        if not np.isfinite(self.parameter) or (self.name == "clip" and self.parameter <= 0):
            raise InputError(f"activation {self.name!r}: parameter {self.parameter} is not usable")

    @classmethod
    def parse(cls, text: str | Activation) -> Activation:
        """Read "relu", "clip:32" and the like.

        Parameters
        ----------
        text : str or Activation
            An activation is given back as it is.

        Returns
        -------
        Activation

        Raises
        ------
        InputError
            The name is unknown, or its parameter is missing, too much, or no number.

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> sdnn.Activation.parse("leaky_relu:0.01").parameter
        0.01
        """
        if isinstance(text, Activation):
            return text
        name, _, parameter = text.partition(":")
        takes = ACTIVATIONS.get(name)
        if takes is None:
            raise InputError(f"unknown activation {text!r}: use one of {', '.join(ACTIVATIONS)}")
        if takes != bool(parameter):
            raise InputError(
                f"activation {text!r}: {name} {'needs a parameter, as in ' + name + ':0.1' if takes else 'takes no parameter'}"
            )
        try:
            return cls(name, float(parameter) if parameter else 0.0)
        except ValueError as error:
            raise InputError(f"activation {text!r}: {parameter!r} is not a number") from error

    def __str__(self) -> str:
        return f"{self.name}:{repr(float(self.parameter)).removesuffix('.0')}" if ACTIVATIONS[self.name] else self.name


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `weights` (outputs, inputs) in canonical CSR, `bias` (outputs,), and an activation.

    Explicitly stored zeros are part of the pattern and are kept. Weights and bias are float32 or float64, of one
    dtype, and finite.

    Parameters
    ----------
    weights : SciPy sparse array of shape (outputs, inputs)
        Of another dtype, it becomes float32.
    bias : array of shape (outputs,)
    activation : Activation
    name : str
        What it is, for messages.

    Raises
    ------
    InputError
        For duplicate entries, non-finite values, or a bias of the wrong length.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, scipy.sparse
    >>> layer = sdnn.Layer(scipy.sparse.csr_array(np.eye(3, 4)), np.zeros(3), sdnn.Activation("tanh"))
    >>> layer.edges, layer.weights.dtype
    (3, dtype('float64'))
    """

    weights: Any
    bias: Array
    activation: Activation = field(default=Activation("relu"))
    name: str = "layer"

    def __post_init__(self) -> None:
        weights = self.weights
        if not scipy.sparse.issparse(weights):
            raise InputError(f"{self.name}: weights are {type(weights).__name__}, not a SciPy sparse array")
        dtype = weights.dtype if weights.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        weights = canonical_csr(weights, self.name).astype(dtype, copy=False)
        bias = np.ascontiguousarray(self.bias, dtype)
        if bias.shape != (weights.shape[0],):
            raise InputError(f"{self.name}: bias has shape {bias.shape}, expected ({weights.shape[0]},)")
        if not np.isfinite(weights.data).all():
            i = int(np.searchsorted(weights.indptr, np.flatnonzero(~np.isfinite(weights.data))[0], "right")) - 1
            raise InputError(f"{self.name}: row {i} has a weight that is NaN or infinite; remove or replace it")
        if not np.isfinite(bias).all():
            raise InputError(f"{self.name}: the bias of row {np.flatnonzero(~np.isfinite(bias))[0]} is NaN or infinite")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)

    @property
    def edges(self) -> int:
        """Number of stored weights."""
        return int(self.weights.nnz)


def canonical_csr(matrix: Any, name: str) -> Any:
    """`matrix` as a `csr_array` with sorted rows; duplicate entries are an `InputError`, never summed in silence."""
    coo = scipy.sparse.csr_array(matrix) if matrix.format == "csr" else scipy.sparse.coo_array(matrix)
    entries = coo.nnz
    csr = coo.tocsr()  # converting COO sums duplicates, so the count tells
    if csr is matrix or not csr.has_canonical_format:
        csr = csr.copy()
        csr.sort_indices()
        csr.sum_duplicates()
    if csr.nnz != entries:
        raise InputError(f"{name}: {entries - csr.nnz} duplicate entries{_first_duplicate(coo)}; keep one of each")
    return csr


def _first_duplicate(matrix: Any) -> str:
    coo = matrix.tocoo()
    order = np.lexsort((coo.col, coo.row))
    row, column = coo.row[order], coo.col[order]
    twin = np.flatnonzero((row[1:] == row[:-1]) & (column[1:] == column[:-1]))
    return f", the first at row {row[twin[0]]}, column {column[twin[0]]}" if twin.size else ""


class Network:
    """A sparse network as a sequence of layers that are loaded when they are asked for.

    Parameters
    ----------
    widths : sequence of int
        Neurons of the input and of each layer, length L + 1.
    load : callable
        `load(k)` returns layer k (0-based: `load(0)` is W_1). Called again each time the layer is asked for.
    dtype : numpy dtype
        float32 or float64: of every weight, bias and activation.
    name : str
        What it is, for people.
    edges : int or None
        Stored weights in all, where known beforehand.
    fingerprint : str
        A digest of all the content, where one is known beforehand, as a store's is.
    notes : sequence of str
        What people should know of how it was read, a line each.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, scipy.sparse
    >>> def load(k):
    ...     return sdnn.Layer(scipy.sparse.eye_array(4, format="csr", dtype=np.float32), np.full(4, k))
    >>> net = sdnn.Network([4, 4, 4], load)
    >>> len(net), net.edges, net[1].bias.tolist()
    (2, 8, [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        widths: Iterable[int],
        load: Callable[[int], Layer],
        dtype: npt.DTypeLike = np.float32,
        name: str = "network",
        edges: int | None = None,
        fingerprint: str = "",
        notes: Iterable[str] = (),
    ) -> None:
        self.widths = tuple(int(n) for n in widths)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.name = name
        self.fingerprint = fingerprint
        self.notes = tuple(notes)
        self._load = load
        self._edges = edges
        if len(self.widths) < 2:
            raise InputError(f"{name}: a network needs at least one layer")
        if min(self.widths) < 1:
            raise InputError(f"{name}: every layer needs at least one neuron, got widths {self.widths}")
        if self.dtype not in (np.float32, np.float64):
            raise InputError(f"{name}: dtype {self.dtype} is not float32 or float64")

    @classmethod
    def from_layers(cls, layers: Iterable[Layer], name: str = "network") -> Network:
        """Make a network of layers that are in memory; their shapes must chain.

        Parameters
        ----------
        layers : iterable of Layer
            The first layer first; at least one.
        name : str
            What it is, for people.

        Returns
        -------
        Network
            Of float64 where one of the layers is.

        Raises
        ------
        InputError
            There is no layer. Layers that do not chain are refused when they are asked for.

        Examples
        --------
        >>> import dasksdnn as sdnn, numpy as np, scipy.sparse
        >>> weights = scipy.sparse.csr_array(np.eye(3, 4, dtype=np.float32))
        >>> sdnn.Network.from_layers([sdnn.Layer(weights, np.zeros(3))])
        <dasksdnn.Network 'network': 4-3, 3 edges, float32>
        """
        held = list(layers)
        if not held:
            raise InputError(f"{name}: a network needs at least one layer")
        widths = [held[0].weights.shape[1], *(layer.weights.shape[0] for layer in held)]
        dtype = np.result_type(*(layer.weights.dtype for layer in held))
        return cls(widths, held.__getitem__, dtype, name, sum(layer.edges for layer in held))

    def __len__(self) -> int:
        return len(self.widths) - 1

    def __getitem__(self, k: int) -> Layer:
        if not -len(self) <= k < len(self):
            raise IndexError(f"layer {k} of {len(self)}")
        k %= len(self)
        layer = self._load(k)
        if layer.weights.shape != (self.widths[k + 1], self.widths[k]):
            raise InputError(
                f"{self.name}: layer {k + 1} has shape {layer.weights.shape}, which does not chain: "
                f"expected ({self.widths[k + 1]}, {self.widths[k]})"
            )
        if layer.weights.dtype != self.dtype:
            layer = Layer(layer.weights.astype(self.dtype), layer.bias, layer.activation, layer.name)
        return layer

    def __iter__(self) -> Iterator[Layer]:
        return (self[k] for k in range(len(self)))

    @property
    def edges(self) -> int:
        """Stored weights in all (counted by one pass over the layers where it was not known)."""
        if self._edges is None:
            self._edges = sum(layer.edges for layer in self)
        return self._edges

    def __repr__(self) -> str:
        inner = set(self.widths)
        shape = (
            f"{self.widths[0]} x {len(self)}"
            if len(inner) == 1
            else "-".join(map(str, self.widths[:8])) + ("-..." if len(self.widths) > 8 else "")
        )
        edges = "" if self._edges is None else f", {self._edges:,} edges"
        return f"<dasksdnn.Network {self.name!r}: {shape}{edges}, {self.dtype}>"

    def _repr_html_(self) -> str:
        edges = "not counted yet" if self._edges is None else f"{self._edges:,}"
        rows = {"layers": f"{len(self):,}", "edges": edges, "values": self.dtype}
        return markup.card(f"dasksdnn.Network {self.name}", markup.aside(markup.facts(rows), markup.chain(self.widths)))
