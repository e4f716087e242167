"""What happened: small immutable records that long work reports, so that progress bars, histories and reports are views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of a task are finished (`total` 0: not known)."""

    task: str
    done: int
    total: int
    unit: str


Listener = Callable[[Progress], None]


def ignore(event: Progress) -> None:
    """Listen to nothing: the default listener."""
