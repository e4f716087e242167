"""Progress of long work: bars in a notebook or on a terminal, plain lines on stderr elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Lock
from time import monotonic

from dasksdnn import markup
from dasksdnn.events import Listener, Progress, ignore, listening

#: Seconds between plain lines.
INTERVAL = 5.0
#: Seconds between drawings in a notebook.
CELL_INTERVAL = 0.2


@contextmanager
def progress() -> Iterator[Listener]:
    """Show the progress of all long work of this process that the block does.

    In a notebook as bars under the cell, on a terminal as bars, elsewhere as a line on stderr every few seconds. Lazy
    dask arrays are Dask's to compute: `dask.diagnostics.ProgressBar` and `distributed.progress` show them.

    Returns
    -------
    context manager
        Gives the listener, for functions that take one.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> with sdnn.progress():
    ...     part = sdnn.partition(sdnn.radixnet(64, 4), 2, method="metis")
    >>> part.nparts
    2
    """
    with _shown() as listener, listening(listener):
        yield listener


def _shown() -> AbstractContextManager[Listener]:
    if in_notebook():
        return _cell()
    if sys.stderr is None:  # closed by whoever started us
        return nullcontext(ignore)
    return _bar() if sys.stderr.isatty() else nullcontext(_Lines().tell)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process: nothing is imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _cell() -> Iterator[Listener]:
    """Bars under the cell that runs, as plain HTML: no widget has to be installed."""
    from IPython.display import HTML, display

    shown: dict[str, Progress] = {}
    lock, due = Lock(), monotonic()
    handle = display(HTML(""), display_id=True)

    def draw() -> None:
        handle.update(HTML(markup.bars({e.task: (e.done, e.total, _done(e)) for e in shown.values()})))

    def tell(event: Progress) -> None:
        nonlocal due
        with lock:
            shown[event.task] = event
            if monotonic() >= due:
                due = monotonic() + CELL_INTERVAL
                draw()

    try:
        yield tell
    finally:
        with lock:
            draw()


@contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    tasks: dict[str, TaskID] = {}
    lock = Lock()
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TextColumn("{task.fields[done]}", justify="right"),
    )
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def tell(event: Progress) -> None:
            with lock:
                done = _done(event)
                if event.task not in tasks:
                    tasks[event.task] = bars.add_task(event.task, total=event.total or None, done=done)
                bars.update(tasks[event.task], completed=event.done, done=done)

        yield tell


class _Lines:
    """One line every few seconds, none for work that ends sooner."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._lock = Lock()

    def tell(self, event: Progress) -> None:
        with self._lock:
            now = monotonic()
            due = self._started.setdefault(event.task, now) + INTERVAL <= now
            if due:
                self._started[event.task] = now
        if due:
            with suppress(OSError):  # nobody listens any more: no reason to stop the work
                print(f"{event.task}: {_done(event)}", file=sys.stderr, flush=True)


def _done(event: Progress) -> str:
    of = f" of {event.total:,}" if event.total else ""
    return f"{event.done:,}{of} {event.unit}"
