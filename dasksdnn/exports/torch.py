"""Networks as modules of PyTorch: a `Sequential` of `Linear` layers and activations, or its state dict in a file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.exports.outline import Outline, Source, outline
from dasksdnn.network import Activation, Layer
from dasksdnn.sources.extras import need
from dasksdnn.sources.state import RECORD, write_record

LAYOUTS = ("dense", "masked", "csr")


def to_torch(source: Source, *, layout: str = "dense") -> Any:
    """Make a PyTorch module of a network; `from_torch` makes the network of it again.

    Parameters
    ----------
    source : Network, Store or path of a store
    layout : {"dense", "masked", "csr"}
        Weights are dense; dense with a mask, as `torch.nn.utils.prune` leaves them, so that training keeps the pattern;
        or sparse CSR, the only one whose memory goes with the stored weights. Dense weights do not tell a stored zero.

    Returns
    -------
    torch.nn.Sequential
        It takes samples as rows, shape (samples, inputs), and holds copies of the weights.

    Raises
    ------
    InputError, StoreError

    Examples
    --------
    >>> import torch, dasksdnn as sdnn
    >>> model = sdnn.to_torch(sdnn.radixnet(64, 2), layout="masked")
    >>> model(torch.ones(5, 64)).shape
    torch.Size([5, 64])
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    return _module(outline(source), layout)


def write_torch(found: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`. The layers' names and activations stand in the state dict's metadata, which PyTorch keeps."""
    state = _module(found, layout).state_dict()
    labels = list(zip(found.names, map(str, found.activations), found.net.widths, strict=False))
    state._metadata[""][RECORD] = write_record(labels)
    need("torch", "format torch").save(state, path)


def _module(found: Outline, layout: str) -> Any:
    torch = need("torch", "to_torch")
    modules = []
    for layer in found.layers():
        modules.append(_linear(torch, layer, layout))
        if layer.activation.name != "identity":
            modules.append(_activation(torch, layer.activation))
    return torch.nn.Sequential(*modules)


def _linear(torch: Any, layer: Layer, layout: str) -> Any:
    outputs, inputs = layer.weights.shape
    linear = torch.nn.Linear(1, 1)  # its parameters are replaced: none of our size is drawn at random
    linear.in_features, linear.out_features = inputs, outputs
    linear.bias = torch.nn.Parameter(torch.from_numpy(layer.bias.copy()))
    weights = _csr(torch, layer.weights) if layout == "csr" else torch.from_numpy(layer.weights.toarray())
    linear.weight = torch.nn.Parameter(weights)
    if layout == "masked":
        from torch.nn.utils import prune

        mask = np.zeros(layer.weights.shape, np.float32)
        places = layer.weights.tocoo()  # of zeros that are stored, too
        mask[places.row, places.col] = 1
        prune.custom_from_mask(linear, "weight", torch.from_numpy(mask))
    return linear


def _csr(torch: Any, weights: Any) -> Any:
    with warnings.catch_warnings():  # "sparse CSR support is in beta", once a process
        warnings.simplefilter("ignore", UserWarning)
        parts = (
            torch.from_numpy(a)
            for a in (weights.indptr.astype("i8"), weights.indices.astype("i8"), weights.data.copy())
        )
        return torch.sparse_csr_tensor(*parts, size=weights.shape)


def _activation(torch: Any, activation: Activation) -> Any:
    nn, parameter = torch.nn, activation.parameter
    makers = {
        "relu": nn.ReLU,
        "clip": lambda: nn.Hardtanh(0.0, parameter),
        "leaky_relu": lambda: nn.LeakyReLU(parameter),
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
    }
    return makers[activation.name]()
