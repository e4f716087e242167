"""First weights for networks to be trained: drawn for each row by its own number of stored weights.

A weight's draw is a hash of (seed, layer, row, column), not the next number of a stream: it is the same whatever else is
stored, and however the network is cut, ordered or loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.special import ndtri

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.sources.checks import float_dtype, real_number, whole_number
from dasksdnn.sources.draws import COLUMNS, VALUES, regular_csr
from dasksdnn.store.blocks import cut_part
from dasksdnn.store.checkpoints import commit
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store

#: Schemes, by name.
SCHEMES = ("he", "glorot")
#: Entries that are drawn at once.
_SLAB = 1 << 20


def initialise(net: Network, scheme: str = "he", seed: int = 0, bias: float = 0.0) -> Network:
    """Draw a network's weights anew, on its pattern.

    Parameters
    ----------
    net : Network
    scheme : {"he", "glorot"}
        Normal weights of mean 0. He: variance 2 / n for a row of n stored weights (2 / (1 + a^2) / n for leaky_relu of
        slope a; He et al., arXiv 1502.01852). Glorot: 2 / (n + m) for an entry of a row of n and a column of m (Glorot
        and Bengio, AISTATS 2010).
    seed : int
        A weight depends on it, on its layer, row and column, and on the degrees of those two alone.
    bias : float
        Of every neuron.

    Returns
    -------
    Network
        Lazy: a layer is drawn when it is asked for. Bit-identical for one seed, however the network is partitioned.

    Raises
    ------
    InputError
        For an argument that is not usable.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(64, 2)
    >>> drawn = sdnn.initialise(net, "he", seed=1)
    >>> deviation = float(drawn[0].weights.data.std())
    >>> drawn.edges == net.edges, abs(deviation - (2 / 32) ** 0.5) < 0.01
    (True, True)
    """
    if scheme not in SCHEMES:
        raise InputError(f"initial weights {scheme!r}: use one of {', '.join(SCHEMES)}")
    load = partial(_drawn, net, scheme, whole_number(seed, "seed", 0), real_number(bias, "bias"))
    return Network(net.widths, load, net.dtype, net.name, net._edges)


def draw_anew(
    store: Store,
    scheme: str = "he",
    seed: int = 0,
    *,
    training: dict[str, Any] | None = None,
    keep: int = 2,
    protect: Collection[int] = (),
) -> Store:
    """Draw the weights of a store anew, as `initialise` does, as a new generation. Hold `store.checkpoints.writing` meanwhile.

    Parameters
    ----------
    store, scheme, seed
    training, keep, protect
        As for `store.checkpoints.commit`.

    Returns
    -------
    Store
        Opened anew.
    """
    net = initialise(store.network, scheme, seed)
    layer = lru_cache(1)(net.__getitem__)

    def values(window: Window, name: str) -> Array:
        if name == "bias":
            return np.zeros(window.arrays[name].shape, net.dtype)
        blocks = (
            cut_part(k, window.part, layer(k), store.order(k), store.order(k + 1))
            for k in range(window.first, window.last)
        )
        return np.concatenate([getattr(block, name) for block in blocks])

    return commit(store, values, training=training, keep=keep, protect=protect)


def _drawn(net: Network, scheme: str, seed: int, bias: float, k: int) -> Layer:
    layer = net[k]
    weights = layer.weights
    degrees = np.diff(weights.indptr)
    columns = np.bincount(weights.indices, minlength=weights.shape[1]) if scheme == "glorot" else None
    he = _he(degrees, layer.activation)
    values = np.empty(weights.nnz, net.dtype)
    for start in range(0, weights.nnz, _SLAB):
        column = weights.indices[start : start + _SLAB]
        row = np.searchsorted(weights.indptr, np.arange(start, start + column.size), "right") - 1
        variance = he[row] if columns is None else 2 / (degrees[row] + columns[column])
        values[start : start + column.size] = normal_at(seed, k, row, column) * np.sqrt(variance)
    made = scipy.sparse.csr_array((values, weights.indices, weights.indptr), shape=weights.shape)
    return Layer(made, np.full(weights.shape[0], bias, net.dtype), layer.activation, layer.name)


def normal_at(seed: int, layer: int, rows: Array, columns: Array) -> Array:
    """Standard normal numbers that belong to entries of a layer (from 0): a hash of where they stand.

    Parameters
    ----------
    seed, layer : int
    rows, columns : int arrays of shape (n,)
        From 0, below 2^32.

    Returns
    -------
    array of shape (n,), float64

    Notes
    -----
    Two rounds of SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014), keyed; 53 bits through the normal quantile.
    """
    # One word more than the seeds of other streams, which a seed sequence would otherwise confuse with this one.
    keys = np.random.SeedSequence([seed, VALUES, layer, 1]).generate_state(2, np.uint64)
    word = (rows.astype(np.uint64) << np.uint64(32)) | columns.astype(np.uint64)
    for key in keys:
        word = _mixed((word + key) * np.uint64(0x9E3779B97F4A7C15))
    drawn: Array = ndtri(((word >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
    return drawn


def _mixed(word: Array) -> Array:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = word ^ (word >> np.uint64(31))
    return mixed


def _he(degrees: Array, activation: Activation) -> Array:
    slope = activation.parameter if activation.name == "leaky_relu" else 0.0
    variance: Array = 2 / (1 + slope * slope) / np.maximum(degrees, 1)
    return variance


def random_sparse(
    widths: Sequence[int],
    density: float | Sequence[float] = 0.1,
    *,
    activation: str | Activation = "relu",
    output_activation: str | Activation = "identity",
    scheme: str = "he",
    seed: int = 0,
    dtype: npt.DTypeLike = "float32",
) -> Network:
    """Make a network of layers of given widths and density, ready to be trained.

    Parameters
    ----------
    widths : sequence of int
        Neurons of the input and of each layer.
    density : float or sequence of float
        Share of the inputs that each row reads, of all layers or of each; every row reads as many distinct inputs, at
        least 1. 1 is a dense layer. Inputs are dealt out like cards: each is read as often as any other, or once more, so
        that none goes unread where there are enough weights.
    activation, output_activation : str or Activation
        Of the hidden layers, and of the last.
    scheme, seed
        Of the weights: see `initialise`.
    dtype : numpy dtype
        float32 or float64.

    Returns
    -------
    Network
        Lazy. Bit-identical for one seed.

    Raises
    ------
    InputError
        For an argument that is not usable.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> sdnn.random_sparse([784, 1024, 1024, 10], [0.05, 0.05, 1.0])
    <dasksdnn.Network 'sparse': 784-1024-1024-10, 102,400 edges, float32>
    """
    if not isinstance(widths, list | tuple | np.ndarray) or len(widths) < 2:
        raise InputError("widths: give the neurons of the input and of at least one layer")
    sizes = tuple(whole_number(n, f"widths[{k}]") for k, n in enumerate(widths))
    layers = len(sizes) - 1
    given: Any = density if isinstance(density, list | tuple | np.ndarray) else [density] * layers
    each = [real_number(d, "density") for d in given]
    if len(each) != layers or not all(0 < d <= 1 for d in each):
        raise InputError(f"density is {density}: give a share above 0, up to 1, or one for each of {layers} layers")
    kind = float_dtype(dtype)
    degrees = tuple(max(1, round(d * n)) for d, n in zip(each, sizes, strict=False))
    hidden, last = Activation.parse(activation), Activation.parse(output_activation)
    load = partial(_pattern, sizes, degrees, (hidden, last), whole_number(seed, "seed", 0), kind)
    edges = sum(n * degree for n, degree in zip(sizes[1:], degrees, strict=True))
    return initialise(Network(sizes, load, kind, "sparse", edges), scheme, seed)


def _pattern(
    widths: tuple[int, ...],
    degrees: tuple[int, ...],
    activations: tuple[Activation, Activation],
    seed: int,
    dtype: np.dtype[Any],
    k: int,
) -> Layer:
    rows, width, degree = widths[k + 1], widths[k], degrees[k]
    if degree == width:
        columns: Array = np.broadcast_to(np.arange(width), (rows, width))
    else:
        columns = dealt_columns(np.random.default_rng([seed, COLUMNS, k]), rows, width, degree)
    weights = regular_csr(np.zeros(columns.size, dtype), columns, width)
    chosen = activations[k == len(degrees) - 1]
    return Layer(weights, np.zeros(rows, dtype), chosen, f"layer {k + 1}")


def dealt_columns(rng: np.random.Generator, rows: int, width: int, degree: int) -> npt.NDArray[np.int64]:
    """Deal shuffled packs of `width` columns out to rows, `degree` to each: sorted, distinct, shape (rows, degree).

    A row that a pack runs out on goes on in the next one, from which the columns that it has are put back.
    """
    dealt = np.empty(rows * degree, np.int64)
    has = np.zeros(width, bool)
    for start in range(0, dealt.size, width):
        pack = rng.permutation(width)
        if before := start % degree:
            mine = dealt[start - before : start]
            has[mine] = True
            first = np.flatnonzero(~has[pack])[: degree - before]
            pack = np.concatenate([pack[first], np.delete(pack, first)])
            has[mine] = False
        dealt[start : start + width] = pack[: dealt.size - start]
    return np.sort(dealt.reshape(rows, degree), axis=1)
