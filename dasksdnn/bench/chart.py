"""Comparisons as bars: one group for each piece of work, one bar for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasksdnn.bench.contender import OURS
from dasksdnn.errors import InputError

if TYPE_CHECKING:
    from dasksdnn.bench.compare import Comparison, Row

SUFFIXES = (".png", ".svg")
#: A contender has one colour in all panels; shades of one are one library's.
COLOURS = {
    OURS: "tab:red",
    "SciPy": "tab:blue",
    "SciPy, tiles of 64": "lightsteelblue",
    "PyTorch CSR": "tab:green",
    "PyTorch CSR, tiles of 64": "yellowgreen",
    "PyTorch dense-masked": "olive",
    "PyTorch dense": "darkkhaki",
    "GraphBLAS": "tab:gray",
}


def check_chart(path: Path | None) -> None:
    """Refuse early what could not be drawn at the end.

    Raises
    ------
    InputError
        The suffix is another, or matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a chart is written as {' or '.join(SUFFIXES)}; choose such a name")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{path}: charts need matplotlib ({error}): pip install matplotlib, or dasksdnn[plot]"
        ) from error


def write_chart(path: Path | None, comparisons: Sequence[Comparison], *, overwrite: bool = False) -> None:
    """Draw the rates of all contenders with the most threads, a panel for each kind of work.

    Parameters
    ----------
    path : Path or None
        Ends in .png or .svg; it appears whole or not at all. Nothing is drawn for None.
    comparisons : sequence of Comparison
    overwrite : bool
        Replace what stands there.
    """
    if path is not None:
        save_figure(draw(comparisons), path, overwrite=overwrite)


def save_figure(figure: Any, path: Path, *, overwrite: bool = False) -> None:
    """Write a matplotlib figure, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : Path
        Ends in .png or .svg.
    overwrite : bool
        Replace what stands there.

    Raises
    ------
    OutputExistsError
    """
    from dasksdnn.atomic import replacing

    with replacing(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=150)


def draw(comparisons: Sequence[Comparison]) -> Any:
    """The matplotlib figure."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(found.kind for found in comparisons))
    groups = [[found for found in comparisons if found.kind == kind] for kind in kinds]
    heights = [max(1, len(group)) for group in groups]
    figure = Figure(figsize=(9, 1.2 + 1.5 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, kind, group in zip(axes, kinds, groups, strict=True):
        _panel(axis, kind, group)
    return figure


def _panel(axis: Any, kind: str, group: Sequence[Comparison]) -> None:
    most = max((row.threads for found in group for row in found.rows), default=1)
    rows = [{row.name: row for row in found.rows if row.threads == most} for found in group]
    names = list(dict.fromkeys(name for each in rows for name in each))
    height = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        held = [(g, each[name]) for g, each in enumerate(rows) if name in each]
        places = [g + (i - (len(names) - 1) / 2) * height for g, _ in held]
        values = [row.rate / 1e9 for _, row in held]
        bars = axis.barh(places, values, height, label=name, color=COLOURS.get(name, "C5"), xerr=_spread(held))
        axis.bar_label(bars, [f"{value:.1f}" for value in values], padding=2, fontsize=7)
    axis.set_yticks(range(len(group)), [found.title for found in group])
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(f"G edges/s (more is better), {most} thread{'s' if most > 1 else ''}")
    axis.set_title(kind)
    axis.legend(fontsize=7)


def _spread(held: Sequence[tuple[int, Row]]) -> list[list[float]]:
    """How far the slowest and the quickest round are from the median, in G edges/s."""
    # Of one round, rounding could leave less than nothing.
    below = [max(0.0, row.rate * (1 - row.timing.median / row.timing.most)) / 1e9 for _, row in held]
    above = [max(0.0, row.rate * (row.timing.median / row.timing.least - 1)) / 1e9 for _, row in held]
    return [below, above]
