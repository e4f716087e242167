"""Messages to long-lived tasks through the workers' own comms: what encrypts, tunnels and finds interfaces there does so here.

    task of rank 0 --post--> [worker's loop] ~~~ comm ~~~> [worker's loop] --box of (run, from, to)--> task of rank 1

A box takes a bounded number of bytes; who posts more waits for its answer until the receiver has taken some.
"""

from __future__ import annotations

import asyncio
from collections import deque
from threading import Condition
from typing import Any

import numpy as np

from dasksdnn.kernels.ring import LENGTH
from dasksdnn.network import Array

#: Bytes that wait in a box, about.
BOX = 8 << 20
#: The operation's name among those of a worker.
OPERATION = "dasksdnn_post"


class Box:
    """What one rank has sent to another and that has not taken it yet. `ready` tells whoever waits that something came."""

    def __init__(self, ready: Condition) -> None:
        self.ready = ready
        self.content: deque[Array] = deque()
        self.held = 0
        self.notes: dict[str, Any] = {}
        self.closed = False

    def put(self, values: Array) -> None:
        """Add some bytes."""
        with self.ready:
            self.content.append(values)
            self.held += values.size
            self.ready.notify_all()

    def take(self, out: Array, start: int) -> int:
        """Copy what is there into `out` (uint8) from `start` on, as `kernels.ring.read` does."""
        with self.ready:
            at = start
            if at < 0 and self.content:
                length = int(self.content[0][:LENGTH].view(np.int64)[0])
                if length != out.size:
                    return -1 - length
                self._drop(LENGTH)
                at = 0
            while self.content and at < out.size:
                first = self.content[0]
                count = min(first.size, out.size - at)
                out[at : at + count] = first[:count]
                at += count
                self._drop(count)
            return at - start

    def _drop(self, count: int) -> None:
        first = self.content.popleft()
        self.held -= count
        if count < first.size:
            self.content.appendleft(first[count:])

    def note(self, kind: str, value: Any) -> None:
        """Leave a note, such as how the sender can be reached."""
        with self.ready:
            self.notes[kind] = value
            self.closed |= kind == "closed"
            self.ready.notify_all()


#: Boxes of this process, by (run, sender, receiver).
boxes: dict[tuple[str, int, int], Box] = {}
#: Posts that this process has taken so far, and their bytes.
counted = {"messages": 0, "bytes": 0}
#: Runs that were told to end.
aborted: set[str] = set()


def abort(run: str) -> None:
    """Let every rank of a run in this process fail, where it waits."""
    aborted.add(run)
    for box in [box for (name, _, _), box in list(boxes.items()) if name == run]:
        with box.ready:
            box.ready.notify_all()


def attend(worker: Any) -> None:
    """Let a worker take posts."""
    worker.handlers.setdefault(OPERATION, _take)


async def _take(run: str, source: int, to: int, kind: str, value: Any) -> str:
    box = boxes.get((run, source, to))
    if box is None:
        return "nobody"
    if kind != "bytes":
        box.note(kind, value)
        return "taken"
    while box.held > BOX and not box.closed:
        if (run, source, to) not in boxes:
            return "nobody"
        await asyncio.sleep(0.001)
    counted["messages"] += 1
    counted["bytes"] += int(value.nbytes)
    box.put(value)
    return "taken"
