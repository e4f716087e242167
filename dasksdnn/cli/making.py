"""Commands that make stores: generators and imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.describe import describe, facts
from dasksdnn.cli.options import (
    BIAS,
    CLIP,
    DTYPE,
    JSON,
    LAYERS,
    NEURONS,
    OUT,
    OUTPUT,
    OVERWRITE,
    PATH,
    PRUNED,
    SEED,
    Commands,
    activation,
    dtype_of,
    number,
    output_activation,
)
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, write_json


@click.group(cls=Commands, short_help="Make a network and store it.")
def generate() -> None:
    """Make a network and write it, layer by layer, as a store of one part: it may be larger than memory."""


@generate.command("radixnet")
@number("--neurons", "Neurons of each layer: 32, 64, 128 or another power of two.", required=True)
@LAYERS
@click.option(
    "--weights",
    type=click.Choice(["constant", "random"]),
    default="constant",
    show_default=True,
    help="1/16 everywhere, or random.",
)
@BIAS
@CLIP
@DTYPE
@SEED
@OUT
@OVERWRITE
@JSON
def generate_radixnet(
    neurons: int, layers: int, weights: str, bias: float | None, clip: float, dtype: str, seed: int, **output: Any
) -> None:
    """RadiX-Net, as in the Graph Challenge: 32 weights a row."""
    from dasksdnn.sources.generators import radixnet

    write(lambda: radixnet(neurons, layers, weights=weights, seed=seed, bias=bias, clip=clip, dtype=dtype), **output)


@generate.command("random")
@NEURONS
@LAYERS
@number("--degree", "Weights of a row.", default=32)
@DTYPE
@SEED
@OUT
@OVERWRITE
@JSON
def generate_random(neurons: int, layers: int, degree: int, dtype: str, seed: int, **output: Any) -> None:
    """No structure: every row reads random neurons."""
    from dasksdnn.sources.generators import random_network

    write(lambda: random_network(neurons, layers, degree=degree, seed=seed, dtype=dtype), **output)


@generate.command("community")
@NEURONS
@LAYERS
@number("--degree", "Weights of a row, on average.", default=32)
@DTYPE
@SEED
@OUT
@OVERWRITE
@JSON
def generate_community(neurons: int, layers: int, degree: int, dtype: str, seed: int, **output: Any) -> None:
    """Like a pruned network: hidden communities, skewed degrees."""
    from dasksdnn.sources.generators import community

    write(lambda: community(neurons, layers, degree=degree, seed=seed, dtype=dtype), **output)


@click.group("import", cls=Commands, short_help="Read a network from files and store it.")
def import_() -> None:
    """Read a network from files, layer by layer, and write it as a store of one part."""


@import_.command("graphchallenge")
@NEURONS
@LAYERS
@click.option(
    "--weights",
    "directory",
    type=PATH,
    required=True,
    metavar="FOLDER",
    help="Where the files nN-l1.tsv, nN-l2.tsv, ... are, plain or gzip (.gz).",
)
@number(
    "--edges-per-neuron",
    "Weights that each layer must have, over its neurons: finds truncated files. 0: any number.",
    default=32,
)
@BIAS
@CLIP
@DTYPE
@OUT
@OVERWRITE
@JSON
def import_graphchallenge(
    neurons: int,
    layers: int,
    directory: Path,
    edges_per_neuron: int,
    bias: float | None,
    clip: float,
    dtype: str,
    **output: Any,
) -> None:
    """The Graph Challenge's published TSV files."""
    from dasksdnn.sources.graphchallenge import graphchallenge

    expected = edges_per_neuron or None
    write(
        lambda: graphchallenge(
            directory, neurons, layers, bias=bias, clip=clip, edges_per_neuron=expected, dtype=dtype
        ),
        **output,
    )


def _matrix_options(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.argument("files", nargs=-1, required=True, type=PATH),
        number("--bias", "Bias of every neuron.  [default: 0, or an exported folder's own]", float),
        activation("relu, or an exported folder's own"),
        output_activation("that of the others"),
        click.option(
            "--orientation",
            type=click.Choice(["outputs", "inputs"]),
            default="outputs",
            show_default=True,
            help="What the rows of a matrix are.",
        ),
        PRUNED,
        OUT,
        OVERWRITE,
        JSON,
    )
    for option in reversed(options):
        function = option(function)
    return function


@import_.command("npz", short_help="SciPy sparse matrices (.npz), a file a layer.")
@_matrix_options
def import_npz(files: tuple[Path, ...], bias: float | None, **options: Any) -> None:
    """SciPy sparse matrices (scipy.sparse.save_npz), a file a layer, in order, or a folder that was exported.

    \b
    Examples:
      dasksdnn import npz w1.npz w2.npz --activation tanh --output-activation identity --out net.zarr
      dasksdnn import npz exported/ --density 0.1 --out net.zarr
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.sources.arrays import from_npz

    output = {name: options.pop(name) for name in OUTPUT}
    write(lambda: from_npz(files, biases=bias, **options), **output)


@import_.command("mtx", short_help="Matrix Market files (.mtx), a file a layer.")
@_matrix_options
@dtype_of("float32, or an exported folder's own")
def import_mtx(files: tuple[Path, ...], bias: float | None, **options: Any) -> None:
    """Matrix Market files, a file a layer, in order, or a folder that was exported.

    \b
    Example:
      dasksdnn import mtx w1.mtx w2.mtx.gz --bias -0.3 --dtype float64 --out net.zarr
    """  # noqa: D301 - \b tells click to leave the lines as they are
    from dasksdnn.sources.arrays import from_mtx

    output = {name: options.pop(name) for name in OUTPUT}
    write(lambda: from_mtx(files, biases=bias, **options), **output)


def write(
    make: Callable[[], Any],
    out: Path,
    overwrite: bool,
    json_path: Path | None,
    density: float | None = None,
    scope: str = "layer",
) -> None:
    """Make a network, prune it where that is asked for, store it, and say what it is."""
    from dasksdnn.sources.pruning import prune_network
    from dasksdnn.store.writer import save

    check_outputs(overwrite, stores=[out], report=json_path)
    command = click.get_current_context().command_path.split()[1]
    start = perf_counter()
    with progress() as listener:
        net = prune_network(make(), density, scope)
        store = save(net, out, overwrite=overwrite, listener=listener)
    seconds, peak = perf_counter() - start, host.peak_resident()
    record = {"store": str(out), **facts(store), "seconds": seconds, "peak_rss_bytes": peak}
    write_json(json_path, {"command": command, **record, "notes": list(net.notes)})
    rows = {
        **describe(store),
        **({"note": "; ".join(net.notes)} if net.notes else {}),
        "seconds": f"{seconds:.2f}",
        "peak memory": host.format_bytes(peak),
    }
    show(f"{command}: {out}", rows)
