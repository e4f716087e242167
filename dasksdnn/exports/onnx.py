"""Networks as ONNX models: a Gemm a layer and its activation, samples as rows, sparse weights as sparse initializers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import dasksdnn
from dasksdnn.errors import InputError
from dasksdnn.exports.outline import Outline
from dasksdnn.host import format_bytes
from dasksdnn.network import Activation, Layer
from dasksdnn.sources.extras import need

_OPSET, _IR = 13, 8
#: Protocol buffers hold no more.
_MOST = (1 << 31) - (1 << 20)
_OPS = {"relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def write_onnx(outline: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`. Refused where the model would have more than 2 GiB."""
    onnx = need("onnx", "format onnx")
    size = _bytes(outline, layout)
    if size > _MOST:
        remedy = "use layout csr (--layout csr), or another format" if layout == "dense" else "use another format"
        raise InputError(f"an ONNX file holds 2 GiB, the weights take {format_bytes(size)}: {remedy}")
    name = outline.net.name.encode("utf-8", "backslashreplace").decode()  # that of a file may be no text
    graph, value = onnx.GraphProto(name=name), "samples"
    kind = onnx.helper.np_dtype_to_tensor_dtype(outline.net.dtype)
    for number, layer in enumerate(outline.layers(), 1):
        value = _add_layer(onnx, graph, f"layer{number}", layer, value, layout)
    widths = outline.net.widths
    graph.input.append(onnx.helper.make_tensor_value_info("samples", kind, ["samples", widths[0]]))
    graph.output.append(onnx.helper.make_tensor_value_info(value, kind, ["samples", widths[-1]]))
    model = onnx.helper.make_model(
        graph,
        producer_name="dasksdnn",
        producer_version=dasksdnn.__version__,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    path.write_bytes(model.SerializeToString())


def _bytes(outline: Outline, layout: str) -> int:
    item = outline.net.dtype.itemsize
    if layout == "dense":
        return sum(a * b for a, b in outline.shapes) * item
    return sum(outline.edges) * (item + 8)


def _add_layer(onnx: Any, graph: Any, name: str, layer: Layer, value: str, layout: str) -> str:
    """Add a layer that takes `value`; returns the name of what it gives."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    if layout == "dense":
        graph.initializer.append(to_tensor(layer.weights.toarray(), f"{name}.weight"))
    else:
        graph.sparse_initializer.append(_sparse(onnx, layer.weights, f"{name}.weight"))
    graph.initializer.append(to_tensor(layer.bias, f"{name}.bias"))
    inputs, product = [value, f"{name}.weight", f"{name}.bias"], f"{name}.product"
    graph.node.append(helper.make_node("Gemm", inputs, [product], f"{name}.gemm", transB=1))
    if layer.activation.name == "identity":
        return product
    graph.node.append(_activation(onnx, graph, name, layer.activation, product, layer.bias.dtype))
    return f"{name}.output"


def _activation(onnx: Any, graph: Any, name: str, activation: Activation, value: str, dtype: Any) -> Any:
    node, output = f"{name}.{activation.name}", f"{name}.output"
    if activation.name == "leaky_relu":
        if dtype == np.float64 and float(str(np.float32(activation.parameter))) != activation.parameter:
            raise InputError(
                f"{activation} of {name}: ONNX has slopes in float32, which is another; use another format"
            )
        return onnx.helper.make_node("LeakyRelu", [value], [output], node, alpha=activation.parameter)
    if activation.name != "clip":
        return onnx.helper.make_node(_OPS[activation.name], [value], [output], node)
    bounds = {f"{name}.low": 0.0, f"{name}.high": activation.parameter}
    for bound, number in bounds.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(number, dtype), bound))
    return onnx.helper.make_node("Clip", [value, *bounds], [output], node)


def _sparse(onnx: Any, weights: Any, name: str) -> Any:
    places = weights.tocoo()
    flat = places.row.astype(np.int64) * weights.shape[1] + places.col
    values = onnx.numpy_helper.from_array(weights.data, name)
    indices = onnx.numpy_helper.from_array(flat, f"{name}.indices")
    return onnx.helper.make_sparse_tensor(values, indices, list(weights.shape))
