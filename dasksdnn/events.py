"""What happened: small immutable records that long work reports, so that progress bars, histories and reports are views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of a task are finished (`total` 0: not known)."""

    task: str
    done: int
    total: int
    unit: str


Listener = Callable[[Progress], None]


_listening: list[Listener] = []


def ignore(event: Progress) -> None:
    """Listen to nothing."""


def announce(event: Progress) -> None:
    """Tell whoever listens in this process: the default listener of public functions."""
    for listener in tuple(_listening):
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told of what is announced while the block runs."""
    _listening.append(listener)
    try:
        yield
    finally:
        _listening.remove(listener)


def is_heard(listener: Listener) -> bool:
    """Whether anybody is told."""
    return listener is not ignore and (listener is not announce or bool(_listening))
