"""Partitions side by side as a picture: who sends how much to whom at random and at best, and the volume layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dasksdnn.partition.metrics import Metrics

if TYPE_CHECKING:
    from dasksdnn.diagnostics.comparison import Comparison

#: Layers that differ more than this are drawn on a logarithmic scale.
FAR = 8
#: A method has one colour in all pictures; what is not named here follows matplotlib's cycle.
COLOURS = {
    "random": "tab:gray",
    "block": "tab:brown",
    "metis": "tab:green",
    "kahypar": "tab:purple",
    "mtkahypar": "tab:blue",
    "hypergraph": "tab:red",
}


def draw(found: Comparison, nparts: int | None = None) -> Any:
    """The matplotlib figure, at one number of parts (by default the largest that was counted).

    Raises
    ------
    InputError
        If nothing was counted at that number of parts.
    """
    from matplotlib.figure import Figure

    counted = found.counted(nparts)
    parts = next(iter(counted.values())).nparts
    figure = Figure(figsize=(10, 8.2), layout="constrained")
    figure.suptitle(f"{found.network} in {parts:,} parts: words sent for a sample, forward", fontsize=13)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))[:, 0]
    _maps(above, {name: counted[name] for name in _pair(counted)})
    lines(below.subplots(), counted)
    return figure


def _pair(counted: Mapping[str, Metrics]) -> list[str]:
    """Random rows and hypergraph; where one is missing, the method that sends most or least."""
    by_volume = sorted(counted, key=lambda name: counted[name].volume)
    worst = "random" if "random" in counted else by_volume[-1]
    best = "hypergraph" if "hypergraph" in counted else by_volume[0]
    return list(dict.fromkeys((worst, best)))


def _maps(figure: Any, counted: Mapping[str, Metrics]) -> None:
    """Words [sender, receiver], all with one colour scale; what a part keeps is left blank."""
    axes = figure.subplots(1, len(counted), squeeze=False, sharey=True)[0]
    most = max(1, *(int(m.send.max()) for m in counted.values()))
    for axis, (name, m) in zip(axes, counted.items(), strict=True):
        # Parts are counted from 0, and a cell's middle is its part.
        image = axis.imshow(np.ma.masked_equal(m.send, 0), vmin=0, vmax=most, cmap="YlGnBu", interpolation="nearest")
        axis.set_facecolor("white")
        axis.set_title(f"{name}: {m.volume:,} words, {m.messages:,} messages", fontsize=10)
        axis.set_xlabel("receiving part")
    axes[0].set_ylabel("sending part")
    figure.colorbar(
        image, ax=list(axes), label="words a sample, all layers (blank: none)", shrink=0.9, format="{x:,.0f}"
    )


def lines(axis: Any, counted: Mapping[str, Metrics]) -> None:
    """Volume of every layer; hypergraph lies broad beneath the methods that it chooses from, which would hide it."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for name, m in sorted(counted.items(), key=lambda item: -item[1].volume):
        layers = np.arange(1, m.volume_per_layer.size + 1)
        narrow = {"lw": 1.5, "marker": "o", "ms": 3 if layers.size <= 40 else 0}
        style = {"lw": 5, "alpha": 0.4, "zorder": 1} if name == "hypergraph" else narrow
        label = f"{name} ({m.volume:,})"
        axis.plot(layers, m.volume_per_layer, color=COLOURS.get(name), label=label, solid_capstyle="round", **style)
    lines = np.concatenate([m.volume_per_layer for m in counted.values()])
    far = lines.min() > 0 and lines.max() > FAR * lines.min()
    if far:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.margins(x=0.02)
    axis.set_xlabel("layer")
    axis.set_ylabel("words a sample" + (", logarithmic" if far else ""))
    axis.set_title("sent before each layer", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="method (all layers)")
