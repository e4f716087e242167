"""The page /sdnn, and a page for each of its panels, as Dask's dashboard serves them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from bokeh.layouts import column
from bokeh.models import Div, GridBox
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from dasksdnn.diagnostics.dashboard import panels
from dasksdnn.diagnostics.dashboard.panel import Panel
from dasksdnn.diagnostics.dashboard.panels import PANELS
from dasksdnn.diagnostics.dashboard.state import State

#: Milliseconds between looks at the state.
INTERVAL = 1000
#: Where each panel stands on the page: row, first of twelve columns, how many of them.
PLACES: dict[type[Panel], tuple[int, int, int]] = {
    panels.Load: (0, 0, 4), panels.Memory: (0, 4, 4), panels.Reading: (0, 8, 4),
    panels.Timeline: (1, 0, 6), panels.Planned: (1, 6, 3), panels.Measured: (1, 9, 3),
    panels.Batches: (2, 0, 4), panels.Loss: (2, 4, 4), panels.Accuracy: (2, 8, 4),
}  # fmt: skip

Document = Callable[[Any, Any, Any], None]


def documents(state: State) -> dict[str, Document]:
    """Routes of pages that show a state, and what makes their documents."""
    alone = {f"/{url}": partial(_alone, state, panel) for url, panel in _urls().items()}
    return {"/sdnn": partial(_all, state), **alone}


def titles() -> dict[str, str]:
    """Name of each panel in menus, by its page."""
    return {url: f"SDNN {panel.title}" for url, panel in _urls().items()}


def _urls() -> dict[str, type[Panel]]:
    return {f"individual-sdnn-{panel.name}": panel for panel in PANELS}


def _alone(state: State, kind: type[Panel], scheduler: Any, extra: Any, doc: Any) -> None:
    panel = kind(state, sizing_mode="stretch_both")
    doc.title = f"Dask: SDNN {kind.title}"
    doc.add_root(panel.figure)
    _follow(doc, panel.update)


def _all(state: State, scheduler: Any, extra: Any, doc: Any) -> None:
    made = {kind: kind(state, sizing_mode="stretch_both") for kind in PANELS}
    line = Div(name="sdnn-line", styles={"font-size": "14px", "padding": "2px 12px"}, sizing_mode="stretch_width")
    cells = [(made[kind].figure, row, first, 1, span) for kind, (row, first, span) in PLACES.items()]
    grid = GridBox(children=cells, rows="1fr", cols="1fr", spacing=4, sizing_mode="stretch_both")
    doc.title = "Dask: SDNN"
    doc.add_root(column(line, grid, sizing_mode="stretch_both"))
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)

    def update() -> None:
        text = escape("no run yet: start one on this cluster (client=)" if state.run is None else state.run.title())
        if line.text != text:
            line.text = text
        for panel in made.values():
            panel.update()

    _follow(doc, update)


def _follow(doc: Any, update: Callable[[], None]) -> None:
    update()
    doc.add_periodic_callback(update, INTERVAL)
    doc.theme = BOKEH_THEME
