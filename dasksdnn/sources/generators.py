"""Networks made on demand, any layer in any order, so that a benchmark larger than memory needs no files.

RadiX-Net is the published benchmark's structure, `random_network` has no structure at all, and `community` looks like
a pruned network: structure that is there, but that the order of the neurons does not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.sources.checks import float_dtype, real_number, whole_number
from dasksdnn.sources.draws import (
    COLUMNS,
    DEGREES,
    MEMBERS,
    PERMUTATION,
    VALUES,
    Style,
    distinct_columns,
    distinct_keys,
    lognormal,
    parse_widths,
    regular_csr,
    row_degrees,
)


def challenge_bias(neurons: int) -> float:
    """The Graph Challenge's bias, -0.30 at 1024 neurons and 0.05 lower at each of 4096, 16384 and 65536.

    Other sizes lie on the same line in log2(neurons).
    """
    return round(-0.3 - 0.025 * (math.log2(neurons) - 10), 9)


def radixnet(
    neurons: int,
    layers: int,
    *,
    weights: str = "constant",
    seed: int = 0,
    bias: float | None = None,
    clip: float = 32.0,
    dtype: npt.DTypeLike = "float32",
) -> Network:
    """Make a RadiX-Net of the Graph Challenge's kind: 32 weights a row, each column read 32 times.

    Parameters
    ----------
    neurons : int
        Neurons of every layer: 16 times a power of two, at least 32. At 32 every layer is dense.
    layers : int
        Number of layers.
    weights : {"constant", "random"}
        1/16 everywhere, or uniform in [1/32, 3/32), which has the same mean.
    seed : int
        Of the permutation of each group of layers after the first, and of the random weights.
    bias : float or None
        Of every neuron; None is `challenge_bias(neurons)`.
    clip : float
        Activations are min(max(z, 0), clip).
    dtype : numpy dtype
        float32 or float64.

    Returns
    -------
    Network
        Lazy: layer k is made when it is asked for. Bit-identical for one seed.

    Raises
    ------
    InputError
        For an argument that is not usable.

    Notes
    -----
    With neurons = 16 * 2**d and layer k = d * g + m + 1, neuron i reads pi_g(i + {0, 2**m} + neurons / 16 * a), modulo
    neurons, a = 0..15. Because 2**m < neurons / 16 the 32 inputs are distinct at every size. pi_0 is the identity, so
    the first d layers are the published ones; the later permutations are random there too.
    Source: Robinett and Kepner, arXiv 1809.05242 and 1905.00416; the permutations were read off the published files.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(neurons=1024, layers=120)
    >>> net
    <dasksdnn.Network 'radixnet-1024': 1024 x 120, 3,932,160 edges, float32>
    >>> net[119].weights.sum(axis=1)[:3].tolist()
    [2.0, 2.0, 2.0]
    """
    neurons, layers = whole_number(neurons, "neurons"), whole_number(layers, "layers")
    seed = whole_number(seed, "seed", 0)
    if neurons < 32 or neurons & (neurons - 1):
        raise InputError(f"neurons: {neurons} is not 16 times a power of two of at least 2; use 32, 64, 128, ...")
    if weights not in ("constant", "random"):
        raise InputError(f"weights: {weights!r} is unknown; use 'constant' or 'random'")
    offset = challenge_bias(neurons) if bias is None else real_number(bias, "bias")
    activation = Activation("clip", real_number(clip, "clip"))
    kind = float_dtype(dtype)
    load = partial(_radix_layer, neurons, weights == "random", seed, offset, activation, kind)
    return Network([neurons] * (layers + 1), load, kind, f"radixnet-{neurons}", edges=32 * neurons * layers)


def _radix_layer(
    n: int, random: bool, seed: int, bias: float, activation: Activation, dtype: np.dtype[Any], k: int
) -> Layer:
    group, place = divmod(k, (n // 16).bit_length() - 1)
    offsets = np.add.outer([0, 1 << place], np.arange(16) * (n // 16)).ravel()
    columns = np.add.outer(np.arange(n), offsets) % n
    if group:
        columns = np.random.default_rng([seed, PERMUTATION, group]).permutation(n)[columns]
    columns.sort(axis=1)
    values = np.full(columns.size, 1 / 16, dtype)
    if random:
        values[:] = np.random.default_rng([seed, VALUES, k]).random(columns.size, np.float32) / 16 + np.float32(1 / 32)
    return Layer(regular_csr(values, columns, n), np.full(n, bias, dtype), activation, f"layer {k + 1}")


def random_network(
    neurons: int | Sequence[int],
    layers: int | None = None,
    *,
    degree: int = 32,
    seed: int = 0,
    bias: float = 0.0,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    dtype: npt.DTypeLike = "float32",
) -> Network:
    """Make a network without structure: each row has `degree` distinct columns, all sets of columns equally likely.

    Parameters
    ----------
    neurons : int or sequence of int
        Neurons of every layer, or the widths of the input and of each layer (then `layers` is None).
    layers : int or None
        Number of layers.
    degree : int
        Weights a row, at most the narrowest layer that is read.
    seed : int
        Every layer has its own stream of random numbers.
    bias : float
        Of every neuron.
    activation, output_activation : str or Activation
        Of the hidden layers, and of the last (None: the same).
    dtype : numpy dtype
        float32 or float64.

    Returns
    -------
    Network
        Lazy. Weights are normal with variance 2 / degree, which keeps the scale of ReLU activations
        (He et al., arXiv 1502.01852).

    Raises
    ------
    InputError
        For an argument that is not usable, such as a degree above a layer's inputs.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.random_network([100, 50, 10], degree=8, output_activation="identity")
    >>> net.edges, [str(layer.activation) for layer in net]
    (480, ['relu', 'identity'])
    """
    widths = parse_widths(neurons, layers)
    degree = whole_number(degree, "degree")
    for k, width in enumerate(widths[:-1]):
        if degree > width:
            raise InputError(f"degree: {degree} is more than the {width} inputs of layer {k + 1}; lower it")
    spec = Style.parse(seed, bias, activation, output_activation, dtype, len(widths) - 1)
    edges = degree * sum(widths[1:])
    return Network(widths, partial(_random_layer, widths, degree, spec), spec.dtype, "random", edges=edges)


def _random_layer(widths: tuple[int, ...], degree: int, style: Style, k: int) -> Layer:
    rng = style.stream(COLUMNS, k)
    columns = distinct_columns(rng, widths[k + 1], widths[k], degree)
    values = style.values(k, columns.size, np.sqrt(2 / degree))
    return style.layer(k, regular_csr(values, columns, widths[k]))


def community(
    neurons: int | Sequence[int],
    layers: int | None = None,
    *,
    degree: int = 32,
    communities: int | None = None,
    inside: float = 0.8,
    skew: float = 0.8,
    seed: int = 0,
    bias: float = 0.0,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    dtype: npt.DTypeLike = "float32",
) -> Network:
    """Make a network that looks pruned: hidden communities, busy and quiet neurons.

    Parameters
    ----------
    neurons, layers, seed, bias, activation, output_activation, dtype
        As in `random_network`.
    degree : int
        Weights a row on average, at most half of the narrowest layer that is read.
    communities : int or None
        Number of communities; None is one for each 128 neurons of the narrowest layer, at least 2.
    inside : float
        Share of the weights that are drawn inside the row's own community, 0 to 1.
    skew : float
        Standard deviation of the logarithm of the row degrees and of the columns' popularity; 0 is none, at most 3.

    Returns
    -------
    Network
        Lazy. A neuron's community is drawn afresh in every layer, so the order of the neurons shows nothing.
        Weights are normal with variance 2 / (the row's degree). `edges` is exact.

    Raises
    ------
    InputError
        For an argument that is not usable.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.community(256, 4, degree=16, communities=8)
    >>> net.edges == 256 * 16 * 4, len(set((net[0].weights != 0).sum(axis=1).tolist())) > 1
    (True, True)
    """
    widths = parse_widths(neurons, layers)
    degree = whole_number(degree, "degree")
    for k, width in enumerate(widths[:-1]):
        if degree > max(1, width // 2):
            raise InputError(f"degree: {degree} is more than half of the {width} inputs of layer {k + 1}; lower it")
    count = max(2, min(widths) // 128) if communities is None else whole_number(communities, "communities")
    inside, skew = real_number(inside, "inside"), real_number(skew, "skew")
    if not 0 <= inside <= 1:
        raise InputError(f"inside: {inside} is not a share between 0 and 1")
    if not 0 <= skew <= 3:
        raise InputError(f"skew: {skew} is not between 0 and 3")
    if communities is not None and count > min(widths):
        raise InputError(f"communities: {count} are more than the {min(widths)} neurons of a layer; lower it")
    spec = Style.parse(seed, bias, activation, output_activation, dtype, len(widths) - 1)
    shapes = zip(widths[1:], widths[:-1], strict=True)
    edges = sum(int(row_degrees(rows, width, degree, skew).sum()) for rows, width in shapes)
    load = partial(_community_layer, widths, degree, count, inside, skew, spec)
    return Network(widths, load, spec.dtype, "community", edges=edges)


def _community_layer(
    widths: tuple[int, ...], degree: int, communities: int, inside: float, skew: float, style: Style, k: int
) -> Layer:
    rows, width = widths[k + 1], widths[k]
    degrees = style.stream(DEGREES, k).permutation(row_degrees(rows, width, degree, skew))
    # Neuron i is in community order[i] % communities; both layers that see these neurons draw the same order.
    home = style.stream(MEMBERS, k + 1).permutation(rows) % communities
    rank = style.stream(MEMBERS, k).permutation(width)
    rng = style.stream(COLUMNS, k)
    popularity = rng.permutation(lognormal(width, skew))
    members = np.argsort(rank % communities, kind="stable")
    bounds = np.searchsorted((rank % communities)[members], np.arange(communities + 1))
    reach = np.concatenate([[0.0], np.cumsum(popularity[members])])

    def draw(row: Array) -> Array:
        own = rng.random(row.size) < inside
        low = np.where(own, reach[bounds[home[row]]], 0.0)
        high = np.where(own, reach[bounds[home[row] + 1]], reach[-1])
        place = np.searchsorted(reach, low + (high - low) * rng.random(row.size), "right") - 1
        return members[np.minimum(place, width - 1)]

    keys = distinct_keys(rng, draw, degrees, width)
    indptr = np.concatenate([[0], np.cumsum(degrees)])
    index = np.int32 if keys.size < 2**31 else np.int64
    values = style.values(k, keys.size, 1.0) * np.repeat(np.sqrt(2 / degrees), degrees).astype(style.dtype)
    parts = (values, (keys % width).astype(index), indptr.astype(index))
    return style.layer(k, scipy.sparse.csr_array(parts, shape=(rows, width)))
