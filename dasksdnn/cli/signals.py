"""Ctrl-C, `kill` and a lost terminal stop the command alike: once, and with time to tidy up."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StoppedError(Exception):
    """A signal ended the command, and everything is undone."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signal(KeyboardInterrupt):
    """Raised where the command is, so that everything on the way out is undone as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Signal` at the first signal; later ones are ignored, because they would cut the tidying up short.

    After a signal they stay ignored: the process is about to end, and what runs at its exit is part of tidying up.
    Signals that whoever started us ignores or handles stay as they are (nohup, background jobs).
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {n: held for n in numbers if (held := signal.getsignal(n)) in (signal.SIG_DFL, signal.default_int_handler)}

    stopped = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        for n in ours:
            signal.signal(n, signal.SIG_IGN)
        warnings.simplefilter("ignore")  # what is broken off midway, such as Zarr's coroutines, is no news
        raise Signal(number)

    for n in ours:
        signal.signal(n, stop)
    try:
        yield
    finally:
        for n, held in ours.items():
            if not stopped:
                signal.signal(n, held)
