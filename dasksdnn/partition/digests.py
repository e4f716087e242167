"""Digests of networks: by their pattern, which is all that a partition depends on, and by everything in them.

Layers are hashed one at a time and in pieces, so that a network larger than memory is digested in one stream.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from dasksdnn.network import Array, Network

#: Elements that are hashed at once: what is converted for it stays small beside a layer.
_PIECE = 1 << 18


class PatternDigest:
    """SHA-256 of the shapes, `indptr` and `indices` of the layers added; neither index dtypes nor weights count."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"dasksdnn pattern 1")

    def add(self, weights: Any) -> None:
        """Count one layer: a canonical `csr_array` of shape (outputs, inputs)."""
        self._update(np.array(weights.shape), "<u8")
        self._update(weights.indptr, "<u8")
        self._update(weights.indices, "<u4")

    def hexdigest(self) -> str:
        """64 hexadecimal digits, of the layers added so far."""
        return self._hash.hexdigest()

    def _update(self, values: Array, dtype: str) -> None:
        for i in range(0, values.size, _PIECE):
            self._hash.update(values[i : i + _PIECE].astype(dtype).data)


def pattern_digest(net: Network) -> str:
    """Digest a network's pattern, one layer in memory at a time.

    Parameters
    ----------
    net : Network

    Returns
    -------
    str
        64 hexadecimal digits, the same for every network of these widths and positions of weights, whatever the
        weights' values and dtype are, and wherever the layers come from.
    """
    digest = PatternDigest()
    for layer in net:
        digest.add(layer.weights)
    return digest.hexdigest()


def content_digest(net: Network) -> str:
    """Digest all that a network consists of; where it comes from a store, that store's own digest tells it at once.

    Parameters
    ----------
    net : Network

    Returns
    -------
    str
        Differs where anything differs. Networks of two sources may hold the same and have different digests.
    """
    if net.fingerprint:
        return net.fingerprint
    whole, pattern = hashlib.sha256(), PatternDigest()
    for layer in net:
        pattern.add(layer.weights)
        for values in (layer.weights.data, layer.bias):
            whole.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
        whole.update(f"{layer.activation} {layer.weights.dtype}".encode())
    whole.update(pattern.hexdigest().encode())
    return whole.hexdigest()
