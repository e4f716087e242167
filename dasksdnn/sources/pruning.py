"""Pruning by magnitude while a network is read: the smallest weights of each layer, or of all layers together, go.

Layers are loaded one at a time. Which weights of all layers are the smallest is found without sorting or holding them: floats
that are not negative order as the integers of their bits, so two passes of counting find the limit of float32 (16 bits
each), four that of float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array, Layer, Network
from dasksdnn.sources.checks import real_number

SCOPES = ("layer", "global")
_BITS = 16


def prune_network(net: Network, density: float | None, scope: str = "layer") -> Network:
    """Keep the largest weights of a network, by magnitude.

    Parameters
    ----------
    net : Network
    density : float or None
        Share of outputs * inputs that stays, above 0 and at most 1, to the nearest weight; None changes nothing. A layer
        (or network) that has no more stored weights loses none.
    scope : {"layer", "global"}
        "layer": every layer has this density. "global": all layers together; small layers of large weights stay denser.

    Returns
    -------
    Network
        Lazy: a layer is pruned when it is loaded. Biases, and neurons that are left without weights, are kept.

    Raises
    ------
    InputError

    Notes
    -----
    Of weights of equal magnitude, what stands first by (layer, row, column) is dropped first, so the result depends on the
    network alone. With "global" the layers are read twice (float64: four times) at the call.

    Examples
    --------
    >>> import numpy as np, dasksdnn as sdnn
    >>> net = sdnn.from_arrays([np.array([[1.0, -4.0], [2.0, 3.0]])])
    >>> prune_network(net, 0.5)[0].weights.toarray().tolist()
    [[0.0, -4.0], [0.0, 3.0]]
    """
    if scope not in SCOPES:
        raise InputError(f"prune scope {scope!r}: use one of {', '.join(SCOPES)}")
    if density is None:
        return net
    share = real_number(density, "density")
    if not 0 < share <= 1:
        raise InputError(f"density {share} is not usable: give a number above 0, at most 1")
    limits = _limits(net, share) if scope == "global" else None
    return Network(net.widths, partial(_pruned, net, share, limits), net.dtype, net.name, notes=net.notes)


def smallest(values: Array, count: int) -> Array:
    """A mask of the `count` smallest values; of equal ones, the first."""
    mask = np.zeros(values.size, np.bool_)
    if count > 0:
        limit = np.partition(values, count - 1)[count - 1]
        np.less(values, limit, out=mask)
        mask[np.flatnonzero(values == limit)[: count - int(np.count_nonzero(mask))]] = True
    return mask


@dataclass(frozen=True, slots=True)
class _Limits:
    """Of all layers: everything below `bits` goes, and of what equals it, the first `ties[k]` of layer k."""

    bits: int
    ties: tuple[int, ...]


def _pruned(net: Network, density: float, limits: _Limits | None, k: int) -> Layer:
    layer = net[k]
    weights = layer.weights
    if limits is None:
        size = np.abs(weights.data)
        drop = smallest(size, size.size - round(density * weights.shape[0] * weights.shape[1]))
    else:
        bits = _bits(weights.data)
        drop = bits < limits.bits
        drop[np.flatnonzero(bits == limits.bits)[: limits.ties[k]]] = True
    return Layer(_without(weights, drop), layer.bias, layer.activation, layer.name)


def _without(weights: Any, drop: Array) -> Any:
    kept = ~drop
    indptr = np.concatenate([[0], np.cumsum(kept)])[weights.indptr].astype(weights.indptr.dtype)
    return scipy.sparse.csr_array((weights.data[kept], weights.indices[kept], indptr), shape=weights.shape)


def _bits(data: Array) -> Array:
    """Magnitudes as integers of the same order."""
    magnitude: Array = np.abs(data).view(np.uint32 if data.dtype == np.float32 else np.uint64)
    return magnitude


def _limits(net: Network, density: float) -> _Limits:
    """Find the magnitude below which `excess` weights of the whole network lie, 16 bits at a time, highest first."""
    cells = sum(a * b for a, b in zip(net.widths[1:], net.widths[:-1], strict=True))
    width = net.dtype.itemsize * 8
    prefix, below, excess, counts = 0, 0, -1, np.zeros((len(net), 1 << _BITS), np.int64)
    for shift in range(width - _BITS, -1, -_BITS):
        for k, layer in enumerate(net):
            bits = _bits(layer.weights.data)
            if shift < width - _BITS:
                bits = bits[bits >> np.array(shift + _BITS, bits.dtype) == prefix]
            digit = (bits >> np.array(shift, bits.dtype)) & np.array((1 << _BITS) - 1, bits.dtype)
            counts[k] = np.bincount(digit.astype(np.int64), minlength=1 << _BITS)
        total = counts.sum(axis=0)
        if excess < 0:
            excess = int(total.sum()) - round(density * cells)
            if excess <= 0:
                return _Limits(0, (0,) * len(net))
        digit = int(np.searchsorted(below + np.cumsum(total), excess))
        below += int(total[:digit].sum())
        prefix = prefix << _BITS | digit
    return _Limits(prefix, _shares(counts[:, digit], excess - below))


def _shares(equal: Array, wanted: int) -> tuple[int, ...]:
    """How many of the equal weights of each layer go: those of the first layers, as many as are wanted."""
    before = np.cumsum(equal) - equal
    return tuple(int(n) for n in np.clip(wanted - before, 0, equal))
