"""Constants of an ONNX graph: initializers, sparse initializers, Constant nodes, and data in files beside the model.

What a tensor claims of itself is compared with what there is before anything is made of it.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line
from dasksdnn.sources.pieces import Values, widened


def attribute_value(onnx: Any, attribute: Any) -> Any:
    """What an attribute holds; None where it holds nothing, or stands for an argument of a function."""
    try:
        return onnx.helper.get_attribute_value(attribute)
    except ValueError:
        return None


class Tensors:
    """The constants by name; `folder` is where external data may be, None for nowhere."""

    def __init__(self, onnx: Any, graph: Any, source: str, folder: str | None) -> None:
        self._onnx, self._source, self._folder = onnx, source, folder
        self._found: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self._found |= {sparse.values.name: sparse for sparse in graph.sparse_initializer}
        for node in graph.node:
            if node.op_type == "Constant" and len(node.output) == 1 and len(node.attribute) == 1:
                self._found[node.output[0]] = self._constant(node)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def values(self, name: str) -> Values:
        """A constant, loaded when it is asked for.

        Raises
        ------
        InputError
            It claims another size than it has, or is of no usable type.
        """
        held = self._found[name]
        label = f"{self._source}: {name!r}"
        if isinstance(held, self._onnx.SparseTensorProto):
            shape = self._shape(held.dims, label)
            return Values(shape, self._dtype(held.values, label), partial(self._load_sparse, held, shape, label))
        self._compare(held, label)
        return Values(self._shape(held.dims, label), self._dtype(held, label), partial(self._load, held, label))

    def _constant(self, node: Any) -> Any:
        """What a Constant node holds, as a tensor; other kinds of it than numbers are none."""
        attribute = node.attribute[0]
        held = attribute_value(self._onnx, attribute)
        if isinstance(held, self._onnx.TensorProto | self._onnx.SparseTensorProto):
            return held
        kind = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        try:
            if held is None:  # NumPy would make NaN of it
                raise TypeError
            return self._onnx.numpy_helper.from_array(np.array(held, kind[attribute.name]), node.output[0])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(
                f"{self._source}: node {node.name!r} (Constant) holds {attribute.name}, which is no number"
            ) from None

    def _shape(self, dims: Any, label: str) -> tuple[int, ...]:
        shape = tuple(int(n) for n in dims)
        if any(n < 0 for n in shape):
            raise InputError(f"{label}: has shape {shape}; export the model again")
        return shape

    def _dtype(self, tensor: Any, label: str) -> np.dtype[Any]:
        try:
            dtype: np.dtype[Any] = np.dtype(self._onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{label}: is of no usable type; export the model with float32 weights") from None
        if dtype.kind not in "biuf":
            raise InputError(f"{label}: is of {dtype}; export the model with float32 weights")
        return dtype

    def _compare(self, tensor: Any, label: str) -> None:
        """Refuse what claims more than it holds now: a width that is only claimed would be allocated further on."""
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            self._find_external(tensor, label)
            return
        count, size = math.prod(self._shape(tensor.dims, label)), self._dtype(tensor, label).itemsize
        lists = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")
        if count > max(len(tensor.raw_data) // size, *(len(getattr(tensor, name)) for name in lists)):
            raise InputError(f"{label}: does not hold the {count:,} numbers that it claims; export the model again")

    def _load(self, tensor: Any, label: str) -> Array:
        shape, dtype = self._shape(tensor.dims, label), self._dtype(tensor, label)
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            return widened(self._load_external(tensor, label).reshape(shape))
        try:
            found: Array = self._onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{label}: is damaged ({first_line(error)}); export the model again") from None
        if found.shape != shape:
            raise InputError(f"{label}: does not hold the {shape} numbers that it claims; export the model again")
        return widened(found.astype(dtype, copy=False))

    def _load_external(self, tensor: Any, label: str) -> Array:
        path, dtype, count, offset = self._find_external(tensor, label)
        with naming_faults(path):
            return np.fromfile(path, dtype, count, offset=offset).astype(dtype.newbyteorder("="), copy=False)

    def _find_external(self, tensor: Any, label: str) -> tuple[str, np.dtype[Any], int, int]:
        """Path, dtype, count and offset of data in another file, compared with the file's size."""
        given = {entry.key: entry.value for entry in tensor.external_data}
        path = self._beside(given.get("location", ""), label)
        dtype = self._dtype(tensor, label).newbyteorder("<")
        count = math.prod(self._shape(tensor.dims, label))
        try:
            offset, length = int(given.get("offset", 0)), int(given.get("length", count * dtype.itemsize))
        except ValueError:
            raise InputError(f"{label}: offset or length of its data is no number; export the model again") from None
        with naming_faults(path):
            size = os.path.getsize(path)
        if offset < 0 or length != count * dtype.itemsize or offset + length > size:
            raise InputError(
                f"{label}: claims {count * dtype.itemsize:,} bytes at {offset:,} of {path}, which has {size:,}; fetch both again"
            )
        return path, dtype, count, offset

    def _beside(self, location: str, label: str) -> str:
        """The path of a data file, links resolved, if it is in the model's folder."""
        if self._folder is None:
            raise InputError(f"{label}: its data are in another file ({location!r}); give the model's path")
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(folder, location.replace("\0", "/")))  # a name ends there, for the system
        if not location or "\0" in location or os.path.isabs(location) or os.path.commonpath([folder, path]) != folder:
            raise InputError(
                f"{label}: its data are said to be in {location!r}, which is not in the model's folder; not read"
            )
        return path

    def _load_sparse(self, held: Any, shape: tuple[int, ...], label: str) -> Any:
        if len(shape) != 2:
            raise InputError(f"{label}: has {len(shape)} dimensions; a matrix has 2")
        values, places = self._load(held.values, label), self._load(held.indices, label)
        if places.dtype != np.int64 or places.shape not in ((values.size,), (values.size, 2)) or values.ndim != 1:
            raise InputError(f"{label}: its {values.size} values do not fit indices of shape {places.shape}")
        if places.ndim == 1:
            if places.size and not 0 <= places.min() <= places.max() < shape[0] * shape[1]:
                raise InputError(f"{label}: an index is beyond its shape {shape}; export the model again")
            row, column = np.divmod(places, shape[1])
        else:
            row, column = places.T
        try:
            return scipy.sparse.coo_array((values, (row, column)), shape=shape)
        except ValueError as error:
            raise InputError(
                f"{label}: is no sound sparse matrix ({first_line(error)}); export the model again"
            ) from None
