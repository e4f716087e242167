"""Writing a network for other tools: one way for all formats, and outputs that appear whole or not at all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from dasksdnn.atomic import replacing
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, ignore
from dasksdnn.exports.formats import FORMATS
from dasksdnn.exports.outline import Source, outline


def export(
    source: Source,
    path: str | Path,
    format: str,
    *,
    layout: str | None = None,
    overwrite: bool = False,
    listener: Listener = ignore,
) -> Path:
    """Write a network for other tools. It appears when it is complete; interrupted, nothing or the old content stands there.

    Parameters
    ----------
    source : Network, Store or path of a store
    path : str or Path
        File or folder to make.
    format : str
        "npz", "mtx", "sparse": a folder of matrices of shape (outputs, inputs), biases as NPY, and `network.json`, which
        `from_npz` and `from_mtx` read again. "torch": a state dict (`to_torch` makes the module). "safetensors", "onnx".
        "anndata" (Zarr), "h5ad" (HDF5): elements `csr_matrix` in `uns`. "binsparse": Zarr groups with its descriptor.
    layout : str, optional
        Of "torch", "safetensors" and "onnx": "dense" (the default; stored zeros are then like others), "csr" (in onnx,
        sparse initializers), and of torch "masked" (pruned as by `torch.nn.utils.prune`).
    overwrite : bool
        Replace what stands at `path`.
    listener : callable
        Told of each layer written.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError, InputError, StoreError

    Notes
    -----
    Layers are loaded one at a time; "torch" and "onnx" hold all that they write in memory, as their formats do.

    Examples
    --------
    >>> import dasksdnn as sdnn, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = sdnn.export(sdnn.radixnet(64, 2), folder.name + "/net", "npz")
    >>> sorted(os.listdir(path))
    ['bias-0001.npy', 'bias-0002.npy', 'layer-0001.npz', 'layer-0002.npz', 'network.json']
    >>> folder.cleanup()
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    if layout is not None and layout not in chosen.layouts:
        raise InputError(f"layout {layout!r}: {format} has {', '.join(chosen.layouts)}")
    module, function = chosen.writer.split(":")
    write = getattr(import_module(f"dasksdnn.exports.{module}"), function)
    found = outline(source, listener)
    with replacing(path, overwrite=overwrite) as temporary:
        write(found, temporary, layout or chosen.layouts[0])
    return Path(path)
