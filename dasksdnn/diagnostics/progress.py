"""Progress of long work: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic

from dasksdnn.events import Listener, Progress, ignore

#: Seconds between plain lines.
INTERVAL = 5.0


@contextmanager
def progress() -> Iterator[Listener]:
    """Give a listener that shows progress until the block ends."""
    if sys.stderr is None:  # closed by whoever started us
        yield ignore
    elif sys.stderr.isatty():
        with _bar() as listener:
            yield listener
    else:
        yield _Lines().tell


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
