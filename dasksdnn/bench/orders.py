"""From the order in which a store has neurons and weights back to the network's own."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from dasksdnn.kernels.block import Block
from dasksdnn.network import Array, Layer


def in_order(layer: Layer, block: Block, columns: Array, rows: Array, values: Array) -> Array:
    """Values that stand beside a block's weights, in the order in which the network has them.

    Parameters
    ----------
    layer : Layer
        Of the network.
    block : Block
        All of the layer's pattern, in the store's order.
    columns, rows : int arrays of shape (inputs,), (outputs,)
        Which neurons the block's columns and rows are.
    values : array of shape (nonzeros,)
        Beside the block's indices.

    Returns
    -------
    array of shape (nonzeros,)
        Beside `layer.weights.data`.
    """
    local = scipy.sparse.csr_array(
        (values, block.indices.astype(np.int64), block.indptr), shape=(block.rows, block.inputs)
    ).tocoo()
    whole = scipy.sparse.coo_array(
        (local.data, (rows[local.row], columns[local.col])), shape=layer.weights.shape
    ).tocsr()
    whole.sort_indices()
    return np.asarray(whole.data)
