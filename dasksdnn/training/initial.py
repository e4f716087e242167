"""First weights for networks to be trained: drawn for each row by its own number of stored weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.sources.checks import float_dtype, real_number, whole_number
from dasksdnn.sources.draws import COLUMNS, VALUES, distinct_columns, regular_csr
from dasksdnn.store.blocks import cut_part
from dasksdnn.store.checkpoints import commit, writing
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store

#: Schemes, by name.
SCHEMES = ("he", "glorot")


def initialise(net: Network, scheme: str = "he", seed: int = 0) -> Network:
    """Draw a network's weights anew, on its pattern; biases become zero.

    Parameters
    ----------
    net : Network
    scheme : {"he", "glorot"}
        Normal weights of mean 0. He: variance 2 / n for a row of n stored weights (2 / (1 + a^2) / n for leaky_relu of
        slope a; He et al., arXiv 1502.01852). Glorot: 2 / (n + m) for an entry of a row of n and a column of m (Glorot
        and Bengio, AISTATS 2010).
    seed : int
        Each layer has its own stream.

    Returns
    -------
    Network
        Lazy: a layer is drawn when it is asked for. Bit-identical for one seed, however the network is partitioned.

    Raises
    ------
    InputError
    """
    if scheme not in SCHEMES:
        raise InputError(f"initial weights {scheme!r}: use one of {', '.join(SCHEMES)}")
    load = partial(_drawn, net, scheme, whole_number(seed, "seed", 0))
    return Network(net.widths, load, net.dtype, net.name, net._edges)


def draw_anew(store: Store, scheme: str = "he", seed: int = 0) -> Store:
    """Draw the weights of a store anew, as `initialise` does, as a new generation; the one before is kept.

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

    with writing(store):
        return commit(store, values, protect={store.generation})


def _drawn(net: Network, scheme: str, seed: int, k: int) -> Layer:
    layer = net[k]
    weights = layer.weights
    rows = np.diff(weights.indptr)
    if scheme == "he":
        deviation = np.repeat(np.sqrt(_he(rows, layer.activation)), rows)
    else:
        columns = np.bincount(weights.indices, minlength=weights.shape[1])
        deviation = np.sqrt(2 / (np.repeat(rows, rows) + columns[weights.indices]))
    deviation *= np.random.default_rng([seed, VALUES, k]).standard_normal(weights.nnz, np.float32)
    values = deviation.astype(net.dtype, copy=False)
    made = scipy.sparse.csr_array((values, weights.indices, weights.indptr), shape=weights.shape)
    return Layer(made, np.zeros(weights.shape[0], net.dtype), layer.activation, layer.name)


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
        least 1. 1 is a dense layer.
    activation, output_activation : str or Activation
        Of the hidden layers, and of the last.
    scheme, seed
        Of the weights: see `initialise`.
    dtype : numpy dtype
        float32 or float64.

    Raises
    ------
    InputError

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
        columns = distinct_columns(np.random.default_rng([seed, COLUMNS, k]), rows, width, degree)
    weights = regular_csr(np.zeros(columns.size, dtype), columns, width)
    chosen = activations[k == len(degrees) - 1]
    return Layer(weights, np.zeros(rows, dtype), chosen, f"layer {k + 1}")
