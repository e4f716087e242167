"""The arithmetic of one owner: what it does to a panel, layer by layer. No I/O, no network.

x (inputs, samples) --layer--> y (outputs, samples) --layer--> x ...      two buffers, back and forth
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dasksdnn.kernels.spmm import spmm
from dasksdnn.network import Activation, Array


@dataclass(frozen=True, slots=True)
class PanelLayer:
    """The rows of one layer that an owner holds, all its parts merged, ready for the kernels.

    Attributes
    ----------
    indptr, indices, data : arrays
        CSR; `indices` are positions in the owner's input panel, in the stored order.
    supernodes : int array
        Where rows that share their columns begin and end (see `kernels.spmm.find_supernodes`).
    bias : array of shape (rows,)
    activation : Activation
    rows : int array of shape (rows,)
        Global neurons of the outputs, in panel order.
    """

    indptr: Array
    indices: Array
    data: Array
    supernodes: Array
    bias: Array
    activation: Activation
    rows: Array

    @property
    def outputs(self) -> int:
        """Rows of the panel that this layer writes."""
        return int(self.bias.size)


def forward(layers: Sequence[PanelLayer], x: Array, spare: Array, samples: int) -> tuple[Array, Array]:
    """Run the first `samples` columns of `x` through consecutive layers.

    Parameters
    ----------
    layers : sequence of PanelLayer
    x, spare : arrays of shape (widest layer, width)
        Buffers; both are overwritten.
    samples : int

    Returns
    -------
    (result, spare) : the two buffers, in the order in which they now are.
    """
    for layer in layers:
        csr = (layer.indptr, layer.indices, layer.data, layer.supernodes)
        spmm(*csr, layer.bias, layer.activation, x, spare, samples)
        x, spare = spare, x
    return x, spare
