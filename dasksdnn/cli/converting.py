"""Commands for the formats of other tools: PyTorch, safetensors and ONNX in, and all that can be written out."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.making import import_, write
from dasksdnn.cli.options import (
    JSON,
    OUT,
    OUTPUT,
    OVERWRITE,
    PATH,
    PRUNED,
    STORE,
    Decorator,
    activation,
    dtype_of,
    names,
    output_activation,
)
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, write_json
from dasksdnn.exports.formats import FORMATS

_FILE = click.argument("file", type=PATH)
_DTYPE = dtype_of("the smaller that holds all")
_ACTIVATION = activation("what a file of 'dasksdnn export' says, else relu")
_OUTPUT_ACTIVATION = output_activation("what a file of 'dasksdnn export' says, else identity")


def _layers(default: str) -> Decorator:
    text = 'Names before ".weight" and ".bias", first layer first; others are left out.'
    return click.option("--layers", metavar="NAME,NAME", help=f"{text}  [default: {default}]")


def _named(layers: str | None) -> list[str] | None:
    return None if layers is None else names(layers, [])


@import_.command("torch", short_help="A state dict, or module, that torch.save wrote.")
@_FILE
@_layers("all, as in the file")
@_ACTIVATION
@_OUTPUT_ACTIVATION
@click.option("--entry", metavar="KEY", help="Key of the state dict, in a checkpoint that holds more.")
@click.option(
    "--trusted",
    is_flag=True,
    help="Unpickle without limits, as whole modules need: WHAT IS IN THE FILE CAN RUN CODE HERE.",
)
@_DTYPE
@PRUNED
@OUT
@OVERWRITE
@JSON
def import_torch(file: Path, layers: str | None, **options: Any) -> None:
    """A state dict of Linear layers that torch.save wrote: dense, pruned by torch.nn.utils.prune, or sparse CSR.

    A file of torch.save is a pickle, which can run code; so only tensors are taken from it. A whole module (torch.save(model))
    is more than tensors, and is read with --trusted alone; it brings its own activations. A softmax at its end is left
    out: outputs are its logits.

    \b
    Examples:
      dasksdnn import torch model.pt --activation relu --output-activation identity --out net.zarr
      dasksdnn import torch checkpoint.pt --entry state_dict --layers fc1,fc2,head --out net.zarr
      dasksdnn import torch model.pt --density 0.1 --prune-scope global --out net.zarr
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.sources.torch import from_torch

    output = {name: options.pop(name) for name in OUTPUT}
    write(lambda: from_torch(file, layers=_named(layers), **options), **output)


@import_.command("safetensors", short_help="Weights and biases in a safetensors file.")
@_FILE
@_layers("all, by the numbers in their names")
@_ACTIVATION
@_OUTPUT_ACTIVATION
@_DTYPE
@PRUNED
@OUT
@OVERWRITE
@JSON
def import_safetensors(file: Path, layers: str | None, **options: Any) -> None:
    """Weights and biases of Linear layers in a safetensors file: dense, with weight_mask, or CSR as export writes it.

    The file keeps no order of its arrays: where numbers in their names do not tell it, --layers has to.

    \b
    Examples:
      dasksdnn import safetensors model.safetensors --activation tanh --out net.zarr
      dasksdnn import safetensors model.safetensors --layers encoder,decoder --out net.zarr
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.sources.safetensors import from_safetensors

    output = {name: options.pop(name) for name in OUTPUT}
    write(lambda: from_safetensors(file, layers=_named(layers), **options), **output)


@import_.command("onnx", short_help="An ONNX model that is a chain of layers.")
@_FILE
@_DTYPE
@PRUNED
@OUT
@OVERWRITE
@JSON
def import_onnx(file: Path, dtype: str | None, **output: Any) -> None:
    """An ONNX model that is a chain of Gemm or MatMul, Add, Relu, Clip, LeakyRelu, Sigmoid and Tanh.

    Anything else is refused by name. A Softmax at the end is left out: outputs are its logits. Weights in other files are
    read from the model's own folder alone.

    \b
    Example:
      dasksdnn import onnx model.onnx --density 0.05 --out net.zarr
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.sources.onnx import from_onnx

    write(lambda: from_onnx(file, dtype=dtype), **output)


@click.command(short_help="Write a store's network for other tools.")
@STORE
@click.option("--to", "form", type=click.Choice(list(FORMATS)), required=True, help="Format; see above.")
@click.option("--out", required=True, type=PATH, metavar="PATH", help="File or folder to make.")
@click.option(
    "--layout",
    type=click.Choice(["dense", "masked", "csr"]),
    help="Of the weights, for torch, safetensors and onnx.  [default: dense there; others are always csr]",
)
@OVERWRITE
@JSON
def export(store: Path, form: str, out: Path, layout: str | None, overwrite: bool, json_path: Path | None) -> None:
    """Write the network in STORE for other tools.

    \b
    npz          folder of scipy.sparse.save_npz files; 'dasksdnn import npz FOLDER' reads it again
    mtx          folder of Matrix Market files; 'dasksdnn import mtx FOLDER' reads it again
    sparse       folder of PyData sparse.save_npz files (GCXS)
    torch        state dict (torch.save): dense, csr, or masked as by torch.nn.utils.prune
    safetensors  dense, for load_state_dict, or csr
    onnx         dense, or csr: sparse initializers, which ONNX Runtime takes too
    anndata      Zarr group for anndata.read_zarr; each layer's csr_matrix is in uns
    h5ad         the same in HDF5, for anndata.read_h5ad
    binsparse    Zarr group; each layer's weights have a binsparse descriptor

    Layers are written one at a time; torch and onnx hold all that they write in memory.

    \b
    Examples:
      dasksdnn export net.zarr --to npz --out matrices
      dasksdnn export net.zarr --to safetensors --layout csr --out net.safetensors
      dasksdnn export net.zarr --to onnx --out net.onnx
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.exports.exporting import export as write_out

    kind = FORMATS[form].kind
    place = {"zarr": "stores", "file": "files", "folder": "folders"}[kind]
    check_outputs(overwrite, report=json_path, inputs=[store], **{place: [out]})
    start = perf_counter()
    with progress() as listener:
        write_out(store, out, form, layout=layout, overwrite=overwrite, listener=listener)
    seconds, peak, size = perf_counter() - start, host.peak_resident(), _bytes(out)
    layout = layout or FORMATS[form].layouts[0]
    record = {"format": form, "layout": layout, "bytes": size, "seconds": seconds}
    write_json(json_path, {"command": "export", "store": str(store), "out": str(out), **record, "peak_rss_bytes": peak})
    rows = {"holds": FORMATS[form].holds, "layout": layout, "size": host.format_bytes(size)}
    show(f"export: {out}", {**rows, "seconds": f"{seconds:.2f}", "peak memory": host.format_bytes(peak)})


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
