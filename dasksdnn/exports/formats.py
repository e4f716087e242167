"""The formats by name: each has a writer in a module of its own, imported when it is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is written.

    Attributes
    ----------
    writer : str
        "module:function" in this package; called with (outline, temporary path, layout).
    kind : {"file", "folder", "zarr"}
        What stands at the path.
    layouts : tuple of str
        How weights may be laid out, the default first.
    holds : str
        For people.
    """

    writer: str
    kind: str
    layouts: tuple[str, ...]
    holds: str


FORMATS = {
    "npz": Format("matrices:write_npz", "folder", ("csr",), "a folder of SciPy's NPZ files"),
    "mtx": Format("matrices:write_mtx", "folder", ("csr",), "a folder of Matrix Market files"),
    "sparse": Format("matrices:write_sparse", "folder", ("csr",), "a folder of PyData sparse's NPZ files (GCXS)"),
    "torch": Format("torch:write_torch", "file", ("dense", "masked", "csr"), "a state dict of PyTorch"),
    "safetensors": Format("safetensors:write_safetensors", "file", ("dense", "csr"), "a safetensors file"),
    "onnx": Format("onnx:write_onnx", "file", ("dense", "csr"), "an ONNX model"),
    "anndata": Format("elements:write_anndata", "zarr", ("csr",), "AnnData in Zarr, the layers in uns"),
    "h5ad": Format("elements:write_h5ad", "file", ("csr",), "AnnData in HDF5, the layers in uns"),
    "binsparse": Format("elements:write_binsparse", "zarr", ("csr",), "a Zarr group of binsparse matrices"),
}
