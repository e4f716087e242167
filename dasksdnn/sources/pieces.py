"""What every reader of networks gives: a piece a layer, whose arrays are loaded when the layer is asked for.

Readers know shapes and dtypes beforehand, from a header; here they are checked to chain, and become a `Network`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network, canonical_csr
from dasksdnn.sources.checks import check_number_dtype, float_dtype
from dasksdnn.sources.matrices import first_line, pydata_to_scipy

#: Neurons are numbered by 32 bits in a store.
_MOST = (1 << 32) - 1

Activations = str | Activation | Sequence[str | Activation]


@dataclass(frozen=True, slots=True)
class Values:
    """An array that is not loaded yet: `load()` gives it dense, or as a SciPy sparse matrix."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer as a file has it: weights of shape (outputs, inputs), a bias of shape (outputs,) or none."""

    name: str
    weights: Values
    bias: Values | None
    activation: Activation


def assemble(pieces: Sequence[Piece], name: str, *, dtype: npt.DTypeLike | None = None) -> Network:
    """Make a network of pieces, loaded one at a time.

    Raises
    ------
    InputError
        Naming the piece, for shapes that do not chain, or dtypes that are no real numbers.
    """
    if not pieces:
        raise InputError(f"{name}: holds no layer; a network needs at least one")
    for piece in pieces:
        _check(piece)
    kind = common_dtype([piece.weights.dtype for piece in pieces], dtype)
    widths = chain([(piece.weights.shape[0], piece.weights.shape[1]) for piece in pieces], [p.name for p in pieces])
    return Network(widths, partial(_load, list(pieces), kind), kind, os.path.basename(name))


def _check(piece: Piece) -> None:
    check_matrix(piece.weights.shape, piece.weights.dtype, f"{piece.name}: the weights")
    if piece.bias is not None:
        check_number_dtype(piece.bias.dtype, f"{piece.name}: bias")
        if piece.bias.shape != piece.weights.shape[:1]:
            raise InputError(f"{piece.name}: bias has shape {piece.bias.shape}, expected ({piece.weights.shape[0]},)")


def _load(pieces: list[Piece], dtype: np.dtype[Any], k: int) -> Layer:
    piece = pieces[k]
    weights = canonical_csr(to_scipy(piece.weights.load(), piece.name), piece.name)
    bias = np.zeros(weights.shape[0]) if piece.bias is None else np.asarray(piece.bias.load())
    with np.errstate(over="ignore"):  # what becomes infinite is refused by Layer
        return Layer(weights.astype(dtype, copy=False), bias.astype(dtype), piece.activation, piece.name)


def check_matrix(shape: tuple[int, ...], dtype: npt.DTypeLike, name: str) -> None:
    """Refuse what is no matrix of real numbers with at least one row and column."""
    check_number_dtype(dtype, name)
    if len(shape) != 2:
        raise InputError(f"{name}: has {len(shape)} dimension{'s' * (len(shape) != 1)}; a matrix has 2")
    if min(shape) < 1:
        raise InputError(f"{name}: has shape {shape}; every layer needs at least one neuron")
    if max(shape) > _MOST:  # what a damaged file claims would be allocated further on
        raise InputError(f"{name}: has shape {shape}; a layer has at most {_MOST:,} neurons")


def to_scipy(matrix: Any, name: str) -> Any:
    """Any 2-d matrix as SciPy sparse, nothing summed, nothing dropped but zeros of a dense one."""
    if not scipy.sparse.issparse(matrix) and type(matrix).__module__.partition(".")[0] == "sparse":
        matrix = pydata_to_scipy(matrix, name)
    if not scipy.sparse.issparse(matrix):
        try:
            matrix = np.asarray(matrix)
        except ValueError as error:
            raise InputError(f"{name}: is not a matrix ({first_line(error)})") from None
    check_matrix(matrix.shape, matrix.dtype, name)
    return matrix if scipy.sparse.issparse(matrix) else scipy.sparse.csr_array(widened(matrix))


def widened(array: Array) -> Array:
    """`array`, as float32 where it is float16: SciPy's sparse matrices have none."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def masked(original: Values, mask: Values, name: str) -> Values:
    """What torch.nn.utils.prune makes of an array: original * mask.

    Of a matrix the mask is the pattern, and a weight of zero in it is stored.

    Raises
    ------
    InputError
        Their shapes differ; when loaded, one of them is sparse.
    """
    if original.shape != mask.shape:
        raise InputError(f"{name}: the original has shape {original.shape}, its mask {mask.shape}; both have one")
    return Values(original.shape, original.dtype, partial(_load_masked, original, mask, name))


def _load_masked(original: Values, mask: Values, name: str) -> Any:
    values, factors = original.load(), mask.load()
    if scipy.sparse.issparse(values) or scipy.sparse.issparse(factors):
        raise InputError(f"{name}: the original or its mask is sparse; make both dense")
    values, places = widened(values), np.nonzero(factors)
    kept = values[places] * factors[places].astype(values.dtype)
    if values.ndim == 2:
        return scipy.sparse.coo_array((kept, places), shape=values.shape)
    dense = np.zeros_like(values)
    dense[places] = kept
    return dense


def common_dtype(dtypes: list[np.dtype[Any]], wanted: npt.DTypeLike | None) -> np.dtype[Any]:
    """The smaller of float32 and float64 that holds all, unless another is wanted."""
    if wanted is not None:
        return float_dtype(wanted)
    return np.result_type(np.float32, *dtypes)


def chain(shapes: list[tuple[int, int]], names: list[str]) -> tuple[int, ...]:
    """Widths of layers of shape (outputs, inputs), each of which must read what the one before it makes."""
    for k in range(1, len(shapes)):
        if shapes[k][1] != shapes[k - 1][0]:
            raise InputError(
                f"{names[k]}: {shapes[k][0]} outputs x {shapes[k][1]} inputs does not follow {names[k - 1]}: "
                f"{shapes[k - 1][0]} outputs x {shapes[k - 1][1]} inputs; check their order and orientation"
            )
    return (shapes[0][1], *(shape[0] for shape in shapes))


def per_layer(activation: Activations, output: str | Activation | None, layers: int) -> list[Activation]:
    """The activation of each layer.

    Parameters
    ----------
    activation : str, Activation, or a sequence of one a layer
        Of the hidden layers; a text may name one a layer, with commas between them ("relu,tanh,identity").
    output : str, Activation or None
        Of the last layer; None leaves it as `activation` says.
    layers : int
    """
    named = activation.split(",") if isinstance(activation, str) and "," in activation else activation
    if isinstance(named, str | Activation):
        found = [Activation.parse(named)] * layers
    else:
        found = [Activation.parse(one.strip() if isinstance(one, str) else one) for one in named]
        if len(found) != layers:
            raise InputError(f"activation: {len(found)} for {layers} layers; give one for all, or one for each layer")
    return found if output is None else [*found[:-1], Activation.parse(output)]
