"""Messages to long-lived tasks through the workers' own comms: what encrypts, tunnels and finds interfaces there does so here.

    task of rank 0 --> [worker's loop] ~~~ a comm of their own ~~~> [worker's loop] --box of (run, from, to)--> task of rank 1
                            bytes, in pieces  ~~~>
                      <~~~  how many were taken

A comm of its own keeps messages in order, and ends with either process. Who sends has a bounded number of bytes under way;
who receives says that it took some once its box has room. Notes, by which ranks meet, are posts of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Condition
from typing import Any

from dasksdnn.network import Array

#: Bytes that wait in a box, about, and that are under way to it.
BOX, UNDER_WAY = 16 << 20, 16 << 20
#: Bytes of a piece of a message.
PIECE = 16 << 20
#: Bytes of a message that is copied, so that its sender need not wait until it was taken.
SMALL = 1 << 16
#: The operations' names among those of a worker: notes, and bytes.
NOTE, BYTES = "dasksdnn_note", "dasksdnn_bytes"

#: Run, sender, receiver.
Way = tuple[str, int, int]


class Box:
    """What one rank has sent to another and that has not taken it yet. `ready` tells whoever waits that something came."""

    def __init__(self, ready: Condition) -> None:
        self.ready = ready
        self.content: deque[tuple[int, Array]] = deque()  # bytes of the message, and some of them
        self.held = 0
        self.notes: dict[str, Any] = {}
        self.sender = ""
        self.closed = False
        self._comm: Any = None  # that the sender's next piece is awaited from

    def put(self, size: int, values: Array) -> None:
        """Add some bytes of a message of so many."""
        with self.ready:
            self.content.append((size, values))
            self.held += values.size
            self.ready.notify_all()

    def take(self, out: Array, start: int) -> int:
        """Copy what is there into `out` (uint8) from `start` on, as `kernels.ring.read` does."""
        with self.ready:
            at = start
            if at < 0 and self.content:
                size = self.content[0][0]
                if size != out.size:
                    return -1 - size
                at = 0
                if not size:
                    self.content.popleft()
            while self.content and at < out.size:
                size, first = self.content.popleft()
                count = min(first.size, out.size - at)
                out[at : at + count] = first[:count]
                at += count
                self.held -= count
                if count < first.size:
                    self.content.appendleft((size, first[count:]))
            return at - start

    def note(self, sender: str, kind: str, value: Any) -> bool:
        """Leave a note, such as how the sender can be reached; whoever met another sender here before does not take it."""
        with self.ready:
            if self.sender not in ("", sender):
                return False
            self.sender = sender
            self.notes[kind] = value
            self.ready.notify_all()
            return True

    async def read(self, comm: Any) -> Any:
        """What comes next; an OSError where nothing does."""
        self._comm = comm
        try:
            return await comm.read()
        finally:
            self._comm = None

    def leave(self) -> None:
        """Take no more: tell the sender, which may have nothing to send by which it would find out. On the loop."""
        if self._comm is not None:
            self._comm.abort()

    def end(self) -> None:
        """Nothing more will come."""
        with self.ready:
            self.closed = True
            self.ready.notify_all()


#: Boxes of this process.
boxes: dict[Way, Box] = {}
#: Pieces that this process has taken so far, and their bytes.
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
    """Let a worker take notes and bytes."""
    worker.handlers.setdefault(NOTE, _take_note)
    worker.handlers.setdefault(BYTES, _take_bytes)


async def _take_note(run: str, source: int, to: int, sender: str, kind: str, value: Any) -> str:
    box = boxes.get((run, source, to))
    return "taken" if box is not None and box.note(sender, kind, value) else "nobody"


async def _take_bytes(comm: Any, run: str, source: int, to: int) -> None:
    way = (run, source, to)
    box = boxes.get(way)
    try:
        while box is not None and boxes.get(way) is box:
            nbytes = _put(box, await box.read(comm))
            while box.held > BOX and boxes.get(way) is box:
                await asyncio.sleep(0.001)
            await comm.write(nbytes)
    except OSError:  # the sender has closed it, or is gone
        pass
    finally:
        comm.abort()
        if box is not None:
            box.end()


def _put(box: Box, message: dict[str, Any]) -> int:
    """Put a piece into a box; returns its bytes. Who waits for the next one must not hold this one any more."""
    piece = message["value"]
    counted["messages"] += 1
    counted["bytes"] += int(piece.nbytes)
    box.put(int(message["size"]), piece)
    return int(piece.nbytes)


class Stream:
    """What one rank sends to another, from the sender's side. `close` it when done.

    Parameters
    ----------
    worker : distributed.Worker
    address : str
        Of the receiver's worker.
    way : (str, int, int)
    told : callable
        Called, on the worker's loop, whenever a message was taken.

    Attributes
    ----------
    lost : bool
        The receiver takes nothing more.
    """

    def __init__(self, worker: Any, address: str, way: Way, told: Callable[[], None]) -> None:
        self.lost = False
        self._worker, self._address, self._way, self._told = worker, address, way, told
        self._loop = worker.loop.asyncio_loop
        self._messages: asyncio.Queue[tuple[Array, Callable[[], None] | None] | None] = asyncio.Queue()
        self._under_way: deque[tuple[int, Callable[[], None] | None]] = deque()
        self._untaken = 0
        self._moved = asyncio.Event()
        self._running: Future[None] = asyncio.run_coroutine_threadsafe(self._run(), self._loop)

    def send(self, values: Array, done: Callable[[], None]) -> None:
        """Send an array of uint8; `done` is called, on the loop, once it was taken, or can be reused."""
        told: Callable[[], None] | None = done
        if values.size <= SMALL:
            values, told = values.copy(), None
            done()
        self._loop.call_soon_threadsafe(self._messages.put_nowait, (values, told))

    def close(self, seconds: float) -> None:
        """Wait for a while until all was taken."""
        with suppress(RuntimeError):  # the loop has ended: so have its comms
            self._loop.call_soon_threadsafe(self._messages.put_nowait, None)
            wait([self._running], seconds)
        self._running.cancel()

    async def _run(self) -> None:
        from distributed.comm import connect

        comm = None
        try:
            comm = await connect(self._address, **self._worker.connection_args)
            run, source, to = self._way
            await comm.write({"op": BYTES, "run": run, "source": source, "to": to, "reply": False})
            taking = asyncio.ensure_future(self._hear(comm))
            giving = asyncio.ensure_future(self._give(comm))
            try:
                for ended in (await asyncio.wait({taking, giving}, return_when=asyncio.FIRST_COMPLETED))[0]:
                    ended.result()
            finally:
                taking.cancel()
                giving.cancel()
                await asyncio.gather(taking, giving, return_exceptions=True)
        except OSError:
            pass
        except Exception:  # to its rank the other one is lost: that is not why
            logging.getLogger("dasksdnn").exception("cannot send to %s", self._address)
        finally:
            self.lost = True
            self._told()
            if comm is not None:
                comm.abort()

    async def _give(self, comm: Any) -> None:
        while (message := await self._messages.get()) is not None:
            await self._give_one(comm, *message)
            del message  # who waits for the next one holds none
        await self._until_untaken(0)

    async def _give_one(self, comm: Any, values: Array, done: Callable[[], None] | None) -> None:
        from distributed.protocol import to_serialize

        for first in range(0, max(1, values.size), PIECE):
            await self._until_untaken(UNDER_WAY)
            piece = values[first : first + PIECE]
            if self._address.startswith("inproc:"):
                piece = piece.copy()  # a comm within a process hands over the very memory
            last = first + PIECE >= values.size
            self._under_way.append((piece.size, done if last else None))
            self._untaken += piece.size
            await comm.write({"size": values.size, "value": to_serialize(piece)})

    async def _until_untaken(self, most: int) -> None:
        while self._untaken > most or (most == 0 and self._under_way):
            self._moved.clear()
            await self._moved.wait()

    async def _hear(self, comm: Any) -> None:
        while True:
            await comm.read()
            size, done = self._under_way.popleft()
            self._untaken -= size
            self._moved.set()
            if done is not None:
                done()
                self._told()
            del done
