"""What panels of the page /sdnn have in common: a Bokeh figure that follows the state of the newest run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from bokeh.models import ColumnDataSource, CustomJSTickFormatter, HoverTool, Legend, LegendItem, Range1d
from bokeh.plotting import figure

from dasksdnn.diagnostics.dashboard.state import RunState, State, Trail

#: Ticks of large numbers: 1500000 is "1.5 M".
LARGE = """
const unit = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find((u) => Math.abs(tick) >= u[0]);
return unit ? `${+(tick / unit[0]).toPrecision(3)} ${unit[1]}` : `${+tick.toPrecision(3)}`;
"""


class Panel(ABC):
    """A figure, and how it follows a state.

    Parameters
    ----------
    state : State
    sizes : str to value
        Of the figure, such as `sizing_mode`.

    Attributes
    ----------
    figure : bokeh figure
    """

    name: ClassVar[str]
    title: ClassVar[str]
    x: ClassVar[str]
    y: ClassVar[str] = ""
    tooltips: ClassVar[list[tuple[str, str]] | None] = None

    def __init__(self, state: State, **sizes: Any) -> None:
        self._state, self._run = state, ""
        self.figure = figure(
            title=self.title,
            name=f"sdnn-{self.name}",
            x_axis_label=self.x,
            y_axis_label=self.y,
            tools="",
            toolbar_location=None,
            min_border_right=18,
            **sizes,
            **self.ranges(),
        )
        self.figure.title.text_font_size = "10pt"
        self.figure.axis.axis_label_text_font_style = "normal"
        self.figure.grid.grid_line_alpha = 0.5
        self.draw()
        if self.tooltips:
            self.figure.add_tools(HoverTool(tooltips=self.tooltips))

    def ranges(self) -> dict[str, Any]:
        """What the figure's ranges are at first."""
        return {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1)}

    @abstractmethod
    def draw(self) -> None:
        """Make sources and glyphs."""

    @abstractmethod
    def follow(self, run: RunState) -> str:
        """Bring sources up to date; returns what the title is to say."""

    def clear(self) -> None:  # noqa: B027 - most panels have nothing to forget
        """Forget the run before."""

    def update(self) -> None:
        """Look at the state."""
        run = self._state.run
        said = "no run yet"
        if run is not None:
            if run.name != self._run:
                self._run = run.name
                self.clear()
            said = self.follow(run)
        text = f"{self.title}: {said}" if said else self.title
        if self.figure.title.text != text:
            self.figure.title.text = text

    def source(self, *columns: str, name: str = "") -> ColumnDataSource:
        """An empty source of these columns."""
        return ColumnDataSource({column: [] for column in columns}, name=f"sdnn-{name or self.name}-data")

    def above(self, **items: Any) -> None:
        """Name renderers in a line above the plot, where they cannot hide anything."""
        entries = [LegendItem(label=label.replace("_", " "), renderers=[made]) for label, made in items.items()]
        legend = Legend(
            items=entries, orientation="horizontal", border_line_color=None, margin=0, padding=0, spacing=12
        )
        legend.label_text_font_size, legend.glyph_height, legend.background_fill_alpha = "8pt", 12, 0
        self.figure.add_layout(legend, "above")


def put(source: ColumnDataSource, **columns: Sequence[Any]) -> None:
    """Replace a source's data where it has changed."""
    if any(list(source.data[name]) != list(values) for name, values in columns.items()):
        source.data = {name: list(values) for name, values in columns.items()}


class Following:
    """Gives a source what a trail has that it has not been given yet."""

    def __init__(self, source: ColumnDataSource, of: Callable[[RunState], Trail]) -> None:
        self.source, self._of, self._seen = source, of, 0

    def clear(self) -> None:
        self._seen = 0
        self.source.data = {name: [] for name in self.source.data}

    def follow(self, run: RunState, row: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple) -> None:
        trail = self._of(run)
        new = [row(r) for r in trail.since(self._seen)]
        self._seen = trail.count
        if new:
            columns = dict(zip(self.source.data, map(list, zip(*new, strict=True)), strict=True))
            self.source.stream(columns, rollover=trail.rows.maxlen)


def fit(axis: Any, low: float, high: float) -> None:
    """Let a range be this, unless it is."""
    if (axis.start, axis.end) != (low, high):
        axis.update(start=low, end=high)


def fit_values(axis: Any, values: Iterable[float]) -> None:
    """Let a range hold these, with a margin; those that are no numbers do not count."""
    known = [v for v in values if v == v]
    if known:
        margin = 0.06 * (max(known) - min(known)) or 0.5
        fit(axis, min(known) - margin, max(known) + margin)


def large() -> CustomJSTickFormatter:
    """How an axis writes large numbers."""
    return CustomJSTickFormatter(code=LARGE)
