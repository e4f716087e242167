"""Pictures with one call, each a matplotlib figure (extra `[plot]`): `sdnn.plots`.

A figure is made without pyplot, so nothing pops up or is kept: a notebook shows what a cell ends with, and
`figure.savefig(path)` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.diagnostics.watching import MemoryWatch
from dasksdnn.errors import InputError
from dasksdnn.network import Array, Network
from dasksdnn.partition.partition import Partition
from dasksdnn.store.reader import Store
from dasksdnn.training.history import History

#: Cells of a spy plot along one side, at most: what is denser is drawn by shade.
CELLS = 512


def spy(source: Network | Store, layer: int = 1, *, partition: Partition | None = None) -> Any:
    """Draw where a layer has weights, in the network's order, and beside it in that of its parts.

    Parameters
    ----------
    source : Network or Store
    layer : int
        1 is the first.
    partition : Partition, optional
        Of a network: its rows and columns are shown part by part. A store is shown as it is laid out.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        There is no such layer, the partition is of another network, or matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(64, 2)
    >>> figure = sdnn.plots.spy(net, 1, partition=sdnn.partition(net, 4, method="block"))
    >>> [axis.get_title() for axis in figure.axes]
    ['as the network numbers its neurons', 'part by part, 4 parts']
    """
    if not 1 <= layer <= len(source):
        raise InputError(f"layer {layer} of {len(source)}: the first is 1")
    weights = (source.layer(layer - 1) if isinstance(source, Store) else source[layer - 1]).weights
    orders = _orders(source, layer, partition)
    figure = _figure((4.6 * (1 + (orders is not None)), 4.6))
    axes = figure.subplots(1, 1 + (orders is not None), squeeze=False)[0]
    _spy(axes[0], weights, "as the network numbers its neurons")
    if orders is not None:
        columns, rows = orders
        shown = weights[np.concatenate(rows)][:, np.concatenate(columns)]
        _spy(axes[1], shown, f"part by part, {len(rows):,} parts", _ends(rows), _ends(columns))
    figure.suptitle(f"layer {layer}: {weights.nnz:,} weights")
    return figure


def sends(source: Partition | Store) -> Any:
    """Draw the words that every part sends to every other, for a sample, over all layers.

    Parameters
    ----------
    source : Partition or Store

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(64, 2)
    >>> figure = sdnn.plots.sends(sdnn.partition(net, 4, method="block"))
    >>> figure.axes[0].get_title()
    '384 words a sample'
    """
    words = _sent(source)
    figure = _figure((5.2, 4.4))
    axis = figure.subplots()
    # What a part keeps is no word: it is left blank.
    image = axis.imshow(np.ma.masked_equal(words, 0), vmin=0, cmap="YlGnBu", interpolation="nearest")
    axis.set_xlabel("receiving part")
    axis.set_ylabel("sending part")
    axis.set_title(f"{words.sum():,} words a sample")
    _whole_numbers(axis.xaxis, axis.yaxis)
    figure.colorbar(image, ax=axis, label="words a sample (blank: none)", format="{x:,.0f}")
    return figure


def volume(*partitions: Partition, **named: Partition) -> Any:
    """Draw the words sent before each layer, a line for each partition.

    Parameters
    ----------
    *partitions : Partition
        Named by their method.
    **named : Partition
        By names of yours.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        There is no partition, or matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(64, 2)
    >>> figure = sdnn.plots.volume(sdnn.partition(net, 4, method="block"), even=sdnn.partition(net, 2, method="block"))
    >>> [line.get_label() for line in figure.axes[0].get_lines()]
    ['block, 4 parts (384)', 'even (128)']
    """
    from dasksdnn.diagnostics.compared import lines

    each = {**{f"{p.method}, {p.nparts} parts": p for p in partitions}, **named}
    if not each:
        raise InputError("nothing to draw: give at least one partition")
    figure = _figure((9, 3.6))
    lines(figure.subplots(), {name: p.metrics for name, p in each.items()})
    return figure


def load(source: Partition | Store) -> Any:
    """Draw the weights that every part owns, beside their average.

    Parameters
    ----------
    source : Partition or Store

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(64, 2)
    >>> figure = sdnn.plots.load(sdnn.partition(net, 4, method="block"))
    >>> [float(bar.get_height()) for bar in figure.axes[0].patches]
    [1024.0, 1024.0, 1024.0, 1024.0]
    """
    held = source.metrics.nonzeros if isinstance(source, Partition) else source.part_edges()
    figure = _figure((7, 3.4))
    axis = figure.subplots()
    axis.bar(np.arange(held.size), held, color="tab:blue")
    axis.axhline(held.mean(), color="tab:red", lw=1, label=f"average, {held.mean():,.0f}")
    axis.set_xlabel("part")
    axis.set_ylabel("weights")
    axis.yaxis.set_major_formatter("{x:,.0f}")
    _whole_numbers(axis.xaxis)
    axis.set_title(f"the heaviest part has {held.max() / max(held.mean(), 1e-300):.3f} x the average")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def roofline(report: str | Path | Mapping[str, Any], threads: int | None = None) -> Any:
    """Draw what the kernels reached under what the machine can do, as `dasksdnn bench kernels --json` measured both.

    Parameters
    ----------
    report : path or dict
        The report.
    threads : int, optional
        By default the most that were measured.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        The file is no such report, or matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> ours = {"name": "dasksdnn", "threads": 2, "multiply_adds_per_second": 9e10}
    >>> case = {"title": "radixnet", "multiply_adds": 10**9, "least_bytes": 10**7, "fma_peak": {"2": 1e11}}
    >>> report = {"bandwidth": {"2": {"read": 2e10}}, "cases": [{**case, "contenders": [ours]}]}
    >>> figure = sdnn.plots.roofline(report)
    >>> figure.axes[0].collections[0].get_offsets().tolist()
    [[100.0, 90.0]]
    """
    record = _record(report)
    try:
        chosen = str(threads or max(map(int, record["bandwidth"])))
        cases = [case for case in record["cases"] if case["multiply_adds"] and chosen in case["fma_peak"]]
        bandwidth = float(record["bandwidth"][chosen]["read"])
        peak = max(float(case["fma_peak"][chosen]) for case in cases)
        points = [
            (case["title"], case["multiply_adds"] / case["least_bytes"], _rate_of(case, chosen)) for case in cases
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"no kernels with {threads or 'any'} threads in the report ({type(error).__name__}: {error}): "
            "make one with 'dasksdnn bench kernels --json FILE'"
        ) from error
    figure = _figure((8, 4.6))
    _roof(figure.subplots(), points, peak, bandwidth, chosen)
    return figure


def history(trained: History) -> Any:
    """Draw the loss of training, and the accuracy where there are classes, epoch by epoch.

    Parameters
    ----------
    trained : History

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = sdnn.save(sdnn.random_sparse([4, 8, 2], 0.5), folder.name + "/net.zarr")
    >>> trained = sdnn.train(store, np.eye(4, dtype=np.float32), np.array([0, 1, 1, 0]), epochs=3)
    >>> [axis.get_ylabel() for axis in sdnn.plots.history(trained).axes]
    ['loss', 'accuracy']
    >>> folder.cleanup()
    """
    epochs = trained.epochs
    figure = _figure((9, 3.4))
    classes = any(e.accuracy is not None for e in epochs)
    panels = figure.subplots(1, 1 + classes, squeeze=False)[0]
    numbers = [e.epoch for e in epochs]
    _curves(panels[0], "loss", numbers, [e.loss for e in epochs], [e.validation_loss for e in epochs])
    if classes:
        _curves(panels[1], "accuracy", numbers, [e.accuracy for e in epochs], [e.validation_accuracy for e in epochs])
    return figure


def memory(watched: MemoryWatch, *, budget: int | None = None, projected: int | None = None) -> Any:
    """Draw the memory that the process held, second by second, under its budget.

    Parameters
    ----------
    watched : MemoryWatch
        `with sdnn.plots.MemoryWatch() as watched: ...` around the run.
    budget, projected : int, optional
        Bytes, as a plan has them: `plan.budget`, `plan.projected`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        matplotlib is not installed.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> with sdnn.plots.MemoryWatch() as watched:
    ...     values = bytearray(1 << 20)
    >>> figure = sdnn.plots.memory(watched, budget=4 << 30)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['held', 'budget, 4,096 MiB']
    """
    mib = 1 << 20
    figure = _figure((8, 3.4))
    axis = figure.subplots()
    axis.plot(watched.seconds, [held / mib for held in watched.resident], color="tab:blue", label="held")
    for name, value, colour in (("budget", budget, "tab:red"), ("projected peak", projected, "tab:orange")):
        if value is not None:
            axis.axhline(value / mib, color=colour, ls="--", lw=1, label=f"{name}, {value / mib:,.0f} MiB")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("seconds")
    axis.set_ylabel("resident memory, MiB")
    axis.set_title(f"peak {watched.peak / mib:,.0f} MiB")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"pictures need matplotlib ({error}): pip install 'dasksdnn[plot]'") from error
    return Figure(figsize=size, layout="constrained")


def _orders(source: Network | Store, layer: int, partition: Partition | None) -> tuple[list[Array], list[Array]] | None:
    """Columns and rows of each part; None where there is one part alone."""
    if isinstance(source, Store):
        pair = [list(source.order(k).members) for k in (layer - 1, layer)]
    elif partition is None:
        return None
    else:
        if [part.size for part in partition.owner] != list(source.widths):
            raise InputError(f"{source.name}: the partition is of another network: its layers have other widths")
        owners = partition.owner[layer - 1], partition.owner[layer]
        pair = [[np.flatnonzero(owner == p) for p in range(partition.nparts)] for owner in owners]
    return (pair[0], pair[1]) if len(pair[1]) > 1 else None


def _spy(axis: Any, weights: Any, title: str, across: Sequence[int] = (), down: Sequence[int] = ()) -> None:
    """Cells are as dark as they are full; lines stand between parts, where these are few enough to be told apart."""
    entries = weights.tocoo()
    bins = [min(CELLS, n) for n in weights.shape]
    cells, _, _ = np.histogram2d(entries.row, entries.col, bins=bins, range=[[0, n] for n in weights.shape])
    axis.imshow(
        np.ma.masked_equal(cells, 0),
        cmap="Blues",
        norm=_shades(cells),
        extent=(0, weights.shape[1], weights.shape[0], 0),
        interpolation="nearest",
        aspect="auto",
    )
    if len(across) <= 64:
        for edge in across:
            axis.axhline(edge, color="tab:red", lw=0.5)
        for edge in down:
            axis.axvline(edge, color="tab:red", lw=0.5)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("input neuron")
    axis.set_ylabel("output neuron")
    _whole_numbers(axis.xaxis, axis.yaxis)


def _shades(cells: Array) -> Any:
    """One weight is seen, too: the lightest shade is not white."""
    from matplotlib.colors import Normalize

    most = max(1.0, float(cells.max(initial=0)))
    return Normalize(-0.8 * most, most)


def _ends(members: Sequence[Array]) -> list[int]:
    ends: list[int] = np.cumsum([ids.size for ids in members])[:-1].tolist()
    return ends


def _sent(source: Partition | Store) -> Array:
    if isinstance(source, Partition):
        return source.metrics.send
    total: Array = np.sum([layer.sent() for layer in source.comm_plan().layers], axis=0)
    return total


def _record(report: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(report, Mapping):
        return report
    try:
        found = json.loads(Path(report).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{report}: no report can be read from it ({error}): give a file of 'dasksdnn bench --json'"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{report}: not a report: give a file of 'dasksdnn bench --json'")
    return found


def _rate_of(case: Mapping[str, Any], threads: str) -> dict[str, float]:
    rows = case["contenders"]
    return {row["name"]: float(row["multiply_adds_per_second"]) for row in rows if str(row["threads"]) == threads}


def _roof(
    axis: Any, points: Sequence[tuple[str, float, dict[str, float]]], peak: float, bandwidth: float, threads: str
) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    from dasksdnn.bench.chart import COLOURS
    from dasksdnn.bench.contender import OURS

    least = min([intensity for _, intensity, _ in points] + [peak / bandwidth]) / 3
    most = max([intensity for _, intensity, _ in points] + [peak / bandwidth]) * 3
    at = np.geomspace(least, most, 200)
    axis.plot(at, np.minimum(peak, at * bandwidth) / 1e9, color="black", lw=1.5)
    axis.annotate(f"peak {peak / 1e9:,.0f} G/s", (most, peak / 1e9), ha="right", va="bottom", fontsize=8)
    axis.annotate(f"memory {bandwidth / 1e9:,.1f} GB/s", (least, least * bandwidth / 1e9), va="top", fontsize=8)
    for name in dict.fromkeys(name for _, _, rates in points for name in rates):
        held = [(intensity, rates[name] / 1e9) for _, intensity, rates in points if name in rates]
        axis.scatter(*zip(*held, strict=True), label=name, color=COLOURS.get(name), s=24, zorder=3)
    below = np.inf  # titles stand one under the other, quickest first
    for title, intensity, rates in sorted(points, key=lambda point: -point[2].get(OURS, 0.0)):
        if OURS in rates:
            below = min(rates[OURS] / 1e9, below / 1.25)
            axis.annotate(title, (1.08 * intensity, below), fontsize=7, va="center")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("multiply-adds for each byte that has to be moved, at least")
    axis.set_ylabel("G multiply-adds/s")
    axis.set_title(f"{threads} thread{'s' if threads != '1' else ''}")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _curves(
    axis: Any, name: str, epochs: Sequence[int], trained: Sequence[float | None], looked_at: Sequence[float | None]
) -> None:
    marker = "o" if len(epochs) <= 40 else ""
    axis.plot(epochs, trained, color="tab:blue", marker=marker, ms=3, label="training")
    if any(value is not None for value in looked_at):
        axis.plot(epochs, looked_at, color="tab:red", marker=marker, ms=3, label="validation")
    if name == "loss":
        axis.set_ylim(bottom=0)
    _whole_numbers(axis.xaxis)
    axis.set_xlabel("epoch")
    axis.set_ylabel(name)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def _whole_numbers(*axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator("auto", integer=True))
