"""How the page gets on a scheduler: a plugin that takes messages in, and routes of its dashboard.

Dask makes its dashboard when the scheduler starts, so a second application, which has all of Dask's pages and these, goes
before it; what the first has open stays open.
"""

from __future__ import annotations

from time import time
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from dasksdnn.diagnostics.dashboard.state import State
from dasksdnn.engines.cluster.telemetry import TOPIC, WATCHED
from dasksdnn.errors import ClusterError

NAME = "dasksdnn-dashboard"


class Dashboard(SchedulerPlugin):  # type: ignore[misc]
    """Takes the messages of runs in.

    Attributes
    ----------
    state : State
    """

    name = NAME

    def __init__(self, scheduler: Any) -> None:
        self.state = State()
        self._watch(scheduler)

    def _watch(self, scheduler: Any) -> None:
        scheduler.set_metadata([WATCHED], True)

    def restart(self, scheduler: Any) -> None:
        """See `SchedulerPlugin`: metadata is cleared."""
        self._watch(scheduler)

    def log_event(self, topic: str, msg: Any) -> None:
        """See `SchedulerPlugin`."""
        if topic == TOPIC:
            self.state.take(msg, time())


def install(scheduler: Any) -> None:
    """Add the page to a scheduler that runs, once.

    Raises
    ------
    ClusterError
        Bokeh is not installed where it runs, or it has no dashboard.
    """
    if NAME in scheduler.plugins:
        return
    try:
        from bokeh.server.tornado import BokehTornado
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import applications, template_variables
    except ImportError as error:
        raise ClusterError(
            f"the dashboard needs Bokeh where the scheduler runs ({error}): pip install 'dasksdnn[dashboard]' there, and "
            "start it again"
        ) from error
    from tornado.ioloop import IOLoop

    from dasksdnn.diagnostics.dashboard.document import documents, titles

    routed = scheduler.http_application
    found = [app for app in routed.applications if isinstance(app, BokehTornado)]
    if not found:
        raise ClusterError(
            "the scheduler has no dashboard to add a page to: start it with one, such as dashboard_address=':8787'"
        )
    plugin = Dashboard(scheduler)
    theirs = template_variables(scheduler)
    plots = [*theirs["plots"], *({"url": url, "name": name} for url, name in titles().items())]
    pages = {"pages": [*theirs["pages"], "sdnn"], "plots": sorted(plots, key=lambda plot: plot["name"])}
    ours = BokehApplication(
        {**applications, **documents(plugin.state)}, scheduler, found[0].prefix, {**theirs, **pages}
    )
    ours.initialize(IOLoop.current())
    ours.start()
    routed.applications.insert(routed.applications.index(found[0]), ours)
    scheduler.add_plugin(plugin)
