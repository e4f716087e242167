"""Sparse matrices as elements of hierarchies: AnnData's csr_matrix in Zarr and HDF5, binsparse's descriptor in Zarr.

anndata   uns/layer-0001/weights   group; encoding-type csr_matrix 0.1.0, shape; data, indices, indptr
          uns/layer-0001/bias      array 0.2.0
binsparse layer-0001/weights       group; binsparse descriptor, format CSR; pointers_to_1, indices_1, values
          layer-0001/bias          the same, format DVEC; values
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.exports.outline import Outline
from dasksdnn.network import Array, Layer
from dasksdnn.sources.extras import need

#: Releases of the two formats' descriptions that are written.
_CSR, _ARRAY = ("csr_matrix", "0.1.0"), ("array", "0.2.0")
_DICT, _ANNDATA = ("dict", "0.1.0"), ("anndata", "0.1.0")
_FRAME, _TEXTS = ("dataframe", "0.2.0"), ("string-array", "0.2.0")
_BINSPARSE = "0.1.0"
#: Elements of a chunk.
_CHUNK = 1 << 18

Put = Callable[[Any, str, Array], Any]


def write_anndata(outline: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`."""
    import zarr

    root = zarr.open_group(zarr.storage.LocalStore(path), mode="w-", zarr_format=3)
    for name in ("obs", "var"):
        frame = root.create_group(name)
        _put_no_rows(frame, frame.create_array("_index", shape=(0,), dtype="str", chunks=(1,)), [])
    _write_anndata(outline, root, _put_zarr)


def write_h5ad(outline: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`."""
    library = need("h5py", "format h5ad")
    text = library.string_dtype()
    with library.File(path, "w-") as file:
        for name in ("obs", "var"):
            frame = file.create_group(name)
            _put_no_rows(frame, frame.create_dataset("_index", shape=(0,), dtype=text), np.array([], text))
        _write_anndata(outline, file, lambda group, name, array: group.create_dataset(name, data=array))


def write_binsparse(outline: Outline, path: Path, layout: str) -> None:
    """See `exporting.export`."""
    import zarr

    root = zarr.open_group(zarr.storage.LocalStore(path), mode="w-", zarr_format=3)
    root.attrs["activations"] = list(map(str, outline.activations))
    for number, layer in enumerate(outline.layers(), 1):
        group = root.create_group(f"layer-{number:04}")
        weights, shape = layer.weights, list(layer.weights.shape)
        arrays = {"pointers_to_1": weights.indptr, "indices_1": weights.indices, "values": weights.data}
        _put_binsparse(group.create_group("weights"), "CSR", shape, arrays)
        _put_binsparse(group.create_group("bias"), "DVEC", shape[:1], {"values": layer.bias})


def _put_binsparse(group: Any, form: str, shape: list[int], arrays: dict[str, Array]) -> None:
    for name, array in arrays.items():
        _put_zarr(group, name, array)
    group.attrs["binsparse"] = {
        "binsparse": {
            "version": _BINSPARSE,
            "format": form,
            "shape": shape,
            "number_of_stored_values": int(arrays["values"].size),
            "data_types": {name: array.dtype.name for name, array in arrays.items()},
        }
    }


def _write_anndata(outline: Outline, root: Any, put: Put) -> None:
    """An AnnData without observations and variables, whose unstructured part is a dict of layers."""
    _encode(root, _ANNDATA)
    uns = root.create_group("uns")
    _encode(uns, _DICT)
    for number, layer in enumerate(outline.layers(), 1):
        group = uns.create_group(f"layer-{number:04}")
        _encode(group, _DICT)
        _put_layer(group, layer, put)


def _put_no_rows(frame: Any, index: Any, columns: Any) -> None:
    """Make a data frame of nothing: an AnnData's readers want observations and variables, and layers have none in common."""
    _encode(frame, _FRAME)
    _encode(index, _TEXTS)
    frame.attrs["_index"], frame.attrs["column-order"] = "_index", columns


def _put_layer(group: Any, layer: Layer, put: Put) -> None:
    weights = group.create_group("weights")
    _encode(weights, _CSR)
    weights.attrs["shape"] = list(layer.weights.shape)
    for name in ("data", "indices", "indptr"):
        put(weights, name, getattr(layer.weights, name))
    _encode(put(group, "bias", layer.bias), _ARRAY)
    group.attrs["activation"] = str(layer.activation)


def _encode(element: Any, encoding: tuple[str, str]) -> None:
    element.attrs["encoding-type"], element.attrs["encoding-version"] = encoding


def _put_zarr(group: Any, name: str, array: Array) -> Any:
    made = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=(max(1, min(array.size, _CHUNK)),))
    made[...] = array
    return made
