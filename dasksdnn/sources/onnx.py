"""Networks from ONNX models: a chain of Gemm or MatMul, Add and activations, and nothing else.

Samples may be rows (x W^T, as PyTorch writes it) or columns (W x), all the way through.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Network
from dasksdnn.sources.building import Builder
from dasksdnn.sources.extras import need
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line
from dasksdnn.sources.onnx_tensors import Tensors, attribute_value
from dasksdnn.sources.pieces import Values
from dasksdnn.sources.pruning import prune_network

OPS = (
    "Gemm",
    "MatMul",
    "Add",
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "Identity",
    "Flatten",
)
#: Of these, the chain may be any operand.
_OF_TWO = ("Gemm", "MatMul", "Add")
_DOMAINS = ("", "ai.onnx")


def from_onnx(
    model: Any, *, density: float | None = None, scope: str = "layer", dtype: npt.DTypeLike | None = None
) -> Network:
    """Make a network of an ONNX model that is a chain of layers.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Its graph may hold Gemm (with transA, transB, alpha, beta), MatMul, Add, Relu, Clip, LeakyRelu, Sigmoid, Tanh, a
        Softmax at the end, Identity, and Flatten; weights are initializers (sparse ones too) or Constant nodes. Data
        outside the file are read from files in its own folder alone.
    density, scope : optional
        Prune while reading, as `from_torch` does.
    dtype : numpy dtype, optional
        float32 or float64; by default the smaller that holds all.

    Returns
    -------
    Network
        A softmax at the end is left out, with a note (`Network.notes`): outputs are its logits.

    Raises
    ------
    InputError
        Naming the node and its operator, for anything else; for a damaged file.

    Examples
    --------
    >>> import dasksdnn as sdnn, tempfile
    >>> from dasksdnn.sources.onnx import from_onnx
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = sdnn.export(sdnn.radixnet(64, 2), folder.name + "/net.onnx", "onnx")
    >>> from_onnx(path).widths
    (64, 64, 64)
    >>> folder.cleanup()
    """
    onnx = need("onnx", "from_onnx")
    source, folder = "ONNX model", None
    if isinstance(model, str | os.PathLike):
        source, folder = os.fspath(model), os.path.dirname(os.path.abspath(model))
        model = _read(onnx, source)
    elif not isinstance(model, onnx.ModelProto):
        raise InputError(f"{type(model).__name__} is no ONNX model: give a path or an onnx.ModelProto")
    walk = _Walk(onnx, model, Builder(source), folder)
    walk.run()
    return prune_network(walk.builder.network(dtype=dtype), density, scope)


def _read(onnx: Any, path: str) -> Any:
    try:
        with naming_faults(path):
            found = onnx.load(path, load_external_data=False)
    except InputError:
        raise
    except Exception as error:  # protobuf's own, which no public name has
        raise InputError(f"{path}: is not a sound ONNX file ({first_line(error)}); export it again") from None
    if not found.graph.node:
        raise InputError(f"{path}: is no ONNX model, or one without nodes; export it again")
    return found


class _Walk:
    """The graph, node by node: each must take what the one before it gives, and nothing else but constants."""

    def __init__(self, onnx: Any, model: Any, builder: Builder, folder: str | None) -> None:
        self.onnx, self.graph, self.builder = onnx, model.graph, builder
        self.tensors = Tensors(onnx, model.graph, builder.source, folder)
        self.opset = max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=1)
        self.columns: bool | None = None  # samples are columns; None: no product has told
        self.value = self._only([i.name for i in self.graph.input if i.name not in self.tensors], "input")

    def _only(self, names: list[str], what: str) -> str:
        if len(names) != 1:
            raise InputError(f"{self.builder.source}: has {len(names)} {what}s; a network has one")
        return names[0]

    def run(self) -> None:
        """Walk from the input to the output."""
        for number, node in enumerate(self.graph.node):
            name = f"node {node.name or number!r} ({node.op_type})"
            if node.op_type == "Constant" and node.domain in _DOMAINS:
                continue
            if node.op_type not in OPS or node.domain not in _DOMAINS:
                raise self.builder.refuse(name, f"operator {node.op_type} is not supported; use {', '.join(OPS)}")
            places = [place for place, key in enumerate(node.input) if key == self.value]
            if len(places) != 1 or len(node.output) != 1 or (places[0] and node.op_type not in _OF_TWO):
                raise self.builder.refuse(name, f"does not take {self.value!r} alone; the graph has to be one chain")
            getattr(self, f"_{node.op_type.lower()}")(name, node, self._attributes(node))
            self.value = node.output[0]
        if (output := self._only([o.name for o in self.graph.output], "output")) != self.value:
            raise InputError(
                f"{self.builder.source}: gives {output!r}, which is not the last of its chain: {self.value!r}"
            )

    def _attributes(self, node: Any) -> dict[str, Any]:
        found = {a.name: attribute_value(self.onnx, a) for a in node.attribute}
        if odd := [name for name, value in found.items() if not isinstance(value, int | float)]:
            raise self.builder.refuse(f"node {node.name!r} ({node.op_type})", f"attribute {odd[0]!r} is no number")
        return found

    def _constant(self, name: str, node: Any) -> tuple[int, Values]:
        """The one input other than what runs through the chain."""
        found = list(self._constants(name, node))
        if len(found) != 1:
            raise self.builder.refuse(name, f"takes {len(found)} constants, not one")
        return found[0]

    def _constants(self, name: str, node: Any) -> Iterator[tuple[int, Values]]:
        """Inputs other than what runs through the chain, with their places."""
        for place, key in enumerate(node.input):
            if key and key != self.value:
                if key not in self.tensors:
                    raise self.builder.refuse(
                        name, f"takes {key!r}, which is no constant; the graph has to be one chain"
                    )
                yield place, self.tensors.values(key)

    # -- products

    def _matmul(self, name: str, node: Any, given: dict[str, Any]) -> None:
        place, weights = self._constant(name, node)
        self._orient(name, columns=place == 0)
        self.builder.product(name, weights if place == 0 else _changed(weights, transposed=True))

    def _gemm(self, name: str, node: Any, given: dict[str, Any]) -> None:
        found = dict(self._constants(name, node))
        place = 1 - list(node.input).index(self.value)
        if place not in (0, 1) or place not in found:
            raise self.builder.refuse(name, "does not multiply the chain with a constant")
        if given.get(("transB", "transA")[place], 0):  # of the chain's own operand
            raise self.builder.refuse(name, "transposes the samples; export the model with samples as rows throughout")
        self._orient(name, columns=place == 0)
        turned = bool(given.get(("transA", "transB")[place], 0)) == (place == 0)
        weights = _changed(found[place], transposed=turned, factor=given.get("alpha", 1.0))
        self.builder.product(name, weights)
        if 2 in found and (beta := given.get("beta", 1.0)):
            self.builder.add(name, self._bias(name, found[2], weights, beta))

    def _orient(self, name: str, columns: bool) -> None:
        if self.columns not in (None, columns):
            raise self.builder.refuse(name, "multiplies from the other side than the product before it")
        self.columns = columns

    def _bias(self, name: str, bias: Values, weights: Values, factor: float = 1.0) -> Values:
        outputs = weights.shape[0] if len(weights.shape) == 2 else 0
        wanted = (outputs, 1) if self.columns else (1, outputs)
        try:
            fits = np.broadcast_shapes(bias.shape, wanted) == wanted
        except ValueError:
            fits = False
        if not fits:
            raise self.builder.refuse(
                name, f"adds a constant of shape {bias.shape} where a bias for {outputs} outputs fits"
            )
        return Values((outputs,), bias.dtype, partial(_load_bias, bias, wanted, factor))

    def _add(self, name: str, node: Any, given: dict[str, Any]) -> None:
        _, bias = self._constant(name, node)
        self.builder.add(name, self._bias(name, bias, self.builder.weights(name)))

    # -- activations

    def _relu(self, name: str, node: Any, given: dict[str, Any]) -> None:
        self.builder.bound(name, 0.0, math.inf)

    def _clip(self, name: str, node: Any, given: dict[str, Any]) -> None:
        unbounded = {"min": -math.inf, "max": math.inf}
        bounds = {key: _short(np.float32(given.get(key, none))) for key, none in unbounded.items()}  # before opset 11
        for place, values in self._constants(name, node):
            if math.prod(values.shape) != 1:
                raise self.builder.refuse(name, f"has a bound of shape {values.shape}; bounds are single numbers")
            bounds["min" if place == 1 else "max"] = _short(_dense(values).ravel()[0])
        limit = float(np.finfo(np.float32).max)  # what some exporters write for none
        low = -math.inf if bounds["min"] <= -limit else float(bounds["min"])
        high = math.inf if bounds["max"] >= limit else float(bounds["max"])
        self.builder.bound(name, low, high)

    def _leakyrelu(self, name: str, node: Any, given: dict[str, Any]) -> None:
        self.builder.activate(name, Activation("leaky_relu", _short(np.float32(given.get("alpha", 0.01)))))

    def _sigmoid(self, name: str, node: Any, given: dict[str, Any]) -> None:
        self.builder.activate(name, Activation("sigmoid"))

    def _tanh(self, name: str, node: Any, given: dict[str, Any]) -> None:
        self.builder.activate(name, Activation("tanh"))

    def _softmax(self, name: str, node: Any, given: dict[str, Any]) -> None:
        axis = given.get("axis", -1 if self.opset >= 13 else 1)
        if axis not in ((0, -2) if self.columns else (1, -1)):
            raise self.builder.refuse(name, f"is along axis {axis}, not that of the neurons")
        self.builder.softmax(name)

    _logsoftmax = _softmax

    def _identity(self, name: str, node: Any, given: dict[str, Any]) -> None:
        pass

    def _flatten(self, name: str, node: Any, given: dict[str, Any]) -> None:
        if given.get("axis", 1) != 1 or self.columns:
            raise self.builder.refuse(name, "does not keep samples as rows")


def _changed(weights: Values, *, transposed: bool = False, factor: float = 1.0) -> Values:
    shape = weights.shape[::-1] if transposed else weights.shape
    return Values(shape, weights.dtype, partial(_load_changed, weights, transposed, factor))


def _load_changed(weights: Values, transposed: bool, factor: float) -> Any:
    loaded = weights.load()
    if factor != 1:
        loaded = loaded * _typed(factor, loaded.dtype)
    if not transposed:
        return loaded
    return loaded.T if scipy.sparse.issparse(loaded) else np.ascontiguousarray(loaded.T)


def _load_bias(bias: Values, wanted: tuple[int, int], factor: float) -> Array:
    loaded = _dense(bias)
    scaled: Array = np.broadcast_to(loaded, wanted).ravel() * _typed(factor, loaded.dtype)
    return scaled


def _dense(values: Values) -> Array:
    """A constant that is no matrix of weights; it may be a sparse initializer."""
    loaded = values.load()
    return loaded.toarray() if scipy.sparse.issparse(loaded) else np.asarray(loaded)


def _typed(factor: float, dtype: np.dtype[Any]) -> Any:
    """A factor in the type of what it multiplies; whole numbers would cut it off."""
    return np.result_type(dtype, np.float32).type(factor)


def _short(number: Any) -> float:
    """0.1 again, where the file's float32 is 0.100000001."""
    return float(str(number))
