"""The order in which a part stores its neurons, chosen before writing: neighbours in it are neighbours in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.network import Array


def neuron_order(weights: Any, rows: Array) -> Array:
    """Order the rows of one part.

    Parameters
    ----------
    weights : csr_array of shape (outputs, inputs)
        The layer.
    rows : int array, ascending
        The rows that the part owns.

    Returns
    -------
    int array
        A permutation of `rows`: rows with the same columns stand together, groups by their first row.
    """
    lengths, keys = np.diff(weights.indptr)[rows], _pattern_keys(weights)[rows]
    by_pattern = np.lexsort((rows, lengths, keys))
    new = np.ones(rows.size, bool)
    new[1:] = (np.diff(keys[by_pattern]) != 0) | (np.diff(lengths[by_pattern]) != 0)
    first = rows[by_pattern][new][np.cumsum(new) - 1]  # of the group of each row, as `by_pattern` has them
    return rows[by_pattern][np.lexsort((rows[by_pattern], first))]


def _pattern_keys(weights: Any) -> Array:
    """A 64-bit key of each row's set of columns; only the order of storage depends on it, so a collision is harmless."""
    mixed = (weights.indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    keys: Array = total[weights.indptr[1:]] - total[weights.indptr[:-1]]
    return keys
