"""Long-lived tasks that send each other arrays: through a ring of shared memory on one host, else through their workers' comms.

    rank 0   [ ring to 1 ]==> rank 1        one host: a memory file that has no name, mapped by both
    rank 0   stream ~ comm ~> box, rank 2   another host

Who waits looks now and then whether the other is still there, and whether the run was told to end; so a rank that dies ends
all others, promptly.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import numpy as np

from dasksdnn.compiling import warm_up
from dasksdnn.engines.cluster.mailbox import NOTE, Box, Stream, aborted, attend, boxes
from dasksdnn.engines.transport import Wire
from dasksdnn.errors import PeerLostError
from dasksdnn.kernels import ring
from dasksdnn.network import Array

#: Bytes of a ring.
RING = 4 << 20
#: Seconds to wait for the other ranks to join, and between looks at whether they are still there.
JOINING, LOOK = 60.0, 0.25
#: Seconds that who closes waits, at most, for what it sent last to be taken.
CLOSING = 5.0
#: Seconds that who waits keeps its processor busy, and the longest that it then sleeps.
SPIN, NAP = 0.005, 0.001


class Peers:
    """A `Transport` between tasks that run on Dask workers at the same time. Make one with `join`; close it when done.

    Attributes
    ----------
    rank, size, sent : int
        See `Transport`.
    shared : int
        Ranks that are reached through shared memory.
    """

    def __init__(self, run: str, rank: int, addresses: Sequence[str], worker: Any, shared: bool) -> None:
        self.rank, self.size, self.sent = rank, len(addresses), 0
        self.wire: Wire | None = None
        self.run, self._worker, self._addresses = run, worker, list(addresses)
        self._name = uuid4().hex  # ranks may meet again in the same run
        self._others = [r for r in range(self.size) if r != rank]
        self._ready = Condition()
        self._boxes = {r: boxes.setdefault((run, r, rank), Box(self._ready)) for r in self._others}
        self._out: dict[int, Array] = {}
        self._in: dict[int, Array] = {}
        self._processes: dict[int, int] = {}
        self._streams: dict[int, Stream] = {}
        #: What has been started and has not ended, by rank; messages to streams are theirs.
        self._leaving: dict[int, deque[_Message]] = {r: deque() for r in self._others}
        self._coming: dict[int, deque[_Message]] = {r: deque() for r in self._others}
        self._looked = 0.0
        try:
            self._join(shared)
            for r in self._others:
                if r not in self._out:
                    self._streams[r] = Stream(worker, addresses[r], (run, rank, r), self._wake)
        except BaseException:
            self.close()
            raise

    @property
    def shared(self) -> int:
        """Ranks that are reached through shared memory."""
        return len(self._out)

    @property
    def whole(self) -> bool:
        """All others are still there."""
        return not any(self._has_left(r) for r in self._others)

    # -- joining

    def _join(self, shared: bool) -> None:
        """Tell the others where the rings to them are, and hear which of them can read there."""
        made = {r: _Made(RING) for r in self._others} if shared else {}
        try:
            for r in self._others:
                self._note(r, "hello", made[r].where if r in made else None)
            for r in self._others:
                where = self._wait_for_note(r, "hello")
                seen = None if where is None or r not in made else _map(where)
                if seen is not None:
                    self._in[r] = seen
                    self._processes[r] = os.pidfd_open(where[0])
                self._note(r, "reads", seen is not None)
            for r in self._others:
                # Memory in one direction alone would leave nobody who tells the other of an end.
                if self._wait_for_note(r, "reads") and r in self._in:
                    self._out[r] = made[r].place
                elif r in self._in:
                    del self._in[r]
                    os.close(self._processes.pop(r))
        finally:
            for one in made.values():
                one.close()

    def _note(self, to: int, kind: str, value: Any) -> None:
        """Leave a note, as soon as the other has a box."""
        what = {
            "run": self.run, "source": self.rank, "to": to, "sender": self._name, "kind": kind, "value": value
        }  # fmt: skip
        end, loop = monotonic() + JOINING, self._worker.loop.asyncio_loop
        while True:
            post = asyncio.run_coroutine_threadsafe(_deliver(self._worker, self._addresses[to], what), loop)
            # The other may join, do its work and close before the answer comes: that it has closed is no error here.
            while not wait([post], LOOK).done:
                self._check_run()
            if post.result() == "taken":
                return
            self._check(to, "did not join the run", end)
            sleep(0.01)

    def _wait_for_note(self, source: int, kind: str) -> Any:
        box, end = self._boxes[source], monotonic() + JOINING
        with box.ready:
            while kind not in box.notes:
                box.ready.wait(LOOK)
                self._check(source, "did not join the run", end)
            return box.notes[kind]

    # -- messages

    def start(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> Callable[[], None]:
        """See `Transport`."""
        messages = []
        for others, way in ((sends, self._leaving), (receives, self._coming)):
            for r, values in others:
                if not values.flags.c_contiguous:
                    raise ValueError("a message has to be a contiguous array")
                message = _Message(r, values.reshape(-1).view(np.uint8), way is self._leaving)
                messages.append(message)
                if message.leaves and r in self._streams:
                    self._streams[r].send(message.values, message.end)
                else:
                    way[r].append(message)
        self.sent += sum(values.nbytes for _, values in sends)
        self._move()

        def finish() -> None:
            since, nap = monotonic(), 0.0
            while pending := [message for message in messages if not message.done]:
                if self._move():
                    since, nap = monotonic(), 0.0
                else:
                    nap = self._wait(since, nap, pending)

        return finish

    def _move(self) -> int:
        """Move what can be moved now; returns how many bytes that was."""
        moved = 0
        for way in (self._leaving, self._coming):
            for waiting in way.values():
                while waiting:
                    message = waiting[0]
                    count = self._push(message) if message.leaves else self._pull(message)
                    if count < 0:
                        raise ValueError(
                            f"rank {message.other} sent {-1 - count} bytes to rank {self.rank}, "
                            f"which expects {message.values.size}"
                        )
                    message.at += count
                    moved += count
                    if message.at < message.values.size:
                        break
                    message.end()
                    waiting.popleft()
        return moved

    def _push(self, message: _Message) -> int:
        return int(ring.write(self._out[message.other], message.values, message.at))

    def _pull(self, message: _Message) -> int:
        if message.other in self._in:
            return int(ring.read(self._in[message.other], message.values, message.at))
        return self._boxes[message.other].take(message.values, message.at)

    def _wait(self, since: float, nap: float, pending: Sequence[_Message]) -> float:
        now = monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            for message in pending:
                self._check(message.other, "has left the run", message=message)
        if not any(message.other in self._in for message in pending):
            # The worker's loop, which brings what is waited for, needs the processor and the interpreter.
            with self._ready:
                if not any(m.done if m.leaves else self._boxes[m.other].content for m in pending):
                    self._ready.wait(LOOK)
            return nap
        if now - since < SPIN:
            ring.linger(20)
            return 0.0
        sleep(nap)
        return min(NAP, nap + 5e-5)

    def _wake(self) -> None:
        with self._ready:
            self._ready.notify_all()

    # -- the others

    def _check(self, r: int, what: str, end: float | None = None, message: _Message | None = None) -> None:
        """Raise where a rank is not there any more, or the run is to end."""
        self._check_run()
        late = end is not None and monotonic() > end
        gone = self._has_left(r)
        # A rank that has left may have taken this one before, or what it sent may be there to be taken: look after it was
        # seen to have left.
        if message is not None and message.leaves:
            over = not message.done
        else:
            over = not self._boxes[r].content and not (r in self._in and ring.holds(self._in[r]))
        if late or (gone and over):
            raise self._lost(r, what)

    def _has_left(self, r: int) -> bool:
        ended = r in self._processes and _has_ended(self._processes[r])
        closed = self._boxes[r].closed or (r in self._in and bool(ring.closed(self._in[r])))
        return ended or closed or (r in self._streams and self._streams[r].lost)

    def _check_run(self) -> None:
        if self.run in aborted:
            raise PeerLostError(
                f"rank {self.rank} was told to end: another one was lost; go on from the last checkpoint"
            )

    def _lost(self, r: int, what: str) -> PeerLostError:
        return PeerLostError(
            f"rank {r} on worker {self._addresses[r]} {what}: go on from the last checkpoint, with the workers there are"
        )

    def close(self) -> None:
        """See `Transport`."""
        end = monotonic() + CLOSING
        for place in self._out.values():
            ring.close(place)
        for r, stream in self._streams.items():
            given_up = self.run in aborted or self._boxes[r].closed
            stream.close(0.0 if given_up else max(0.0, end - monotonic()))
        for r in self._others:
            boxes.pop((self.run, r, self.rank), None)
        with suppress(RuntimeError):  # the loop has ended: so have its comms
            for box in self._boxes.values():
                self._worker.loop.asyncio_loop.call_soon_threadsafe(box.leave)
        for held in (self._streams, self._out, self._in):
            held.clear()
        while self._processes:
            os.close(self._processes.popitem()[1])


@dataclass(slots=True)
class _Message:
    """One that was started.

    Attributes
    ----------
    other : int
    values : uint8 array
    leaves : bool
        From here to the other; else the other way.
    at : int
        Where it goes on: see `kernels.ring`.
    done : bool
    """

    other: int
    values: Array
    leaves: bool
    at: int = -ring.LENGTH
    done: bool = False

    def end(self) -> None:
        """It has arrived."""
        self.done = True


async def _deliver(worker: Any, address: str, what: dict[str, Any]) -> str:
    try:
        return str(await getattr(worker.rpc(address), NOTE)(**what))
    except OSError:
        return "nobody"


def _has_ended(process: int) -> bool:
    looking = select.poll()  # not `select`, which fails where a process has more than 1,024 files
    looking.register(process, select.POLLIN)
    return bool(looking.poll(0))


class _Made:
    """A memory file for a ring."""

    def __init__(self, nbytes: int) -> None:
        self._token = os.urandom(16)
        self._file = os.memfd_create("dasksdnn-ring", os.MFD_CLOEXEC)
        os.ftruncate(self._file, ring.HEAD + nbytes)
        self.place: Array = np.frombuffer(mmap.mmap(self._file, ring.HEAD + nbytes), np.uint8)
        self.place[ring.HEAD - 16 : ring.HEAD] = np.frombuffer(self._token, np.uint8)

    @property
    def where(self) -> tuple[int, int, bytes, int]:
        """Process, descriptor, what stands there, and how large it is."""
        return os.getpid(), self._file, self._token, int(self.place.size)

    def close(self) -> None:
        """Close the file: it lives as long as it is mapped."""
        os.close(self._file)


def _map(where: tuple[int, int, bytes, int]) -> Array | None:
    """Map a ring of another process; None where it cannot be seen from here."""
    process, descriptor, token, nbytes = where
    place = f"/proc/{process}/fd/{descriptor}"
    try:
        # In another container this may be a pipe or a terminal of a stranger, which is not to be opened.
        if not os.readlink(place).startswith("/memfd:"):
            return None
        opened = os.open(place, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(opened).st_size != nbytes or os.pread(opened, 16, ring.HEAD - 16) != token:
            return None
        return np.frombuffer(mmap.mmap(opened, nbytes), np.uint8)
    finally:
        os.close(opened)


def join(run: str, rank: int, addresses: Sequence[str], shared: bool = True) -> Peers:
    """Meet the other ranks of a run, from a task on a worker; all workers `attend` by then.

    Parameters
    ----------
    run : str
        Its name; another for each attempt.
    rank : int
    addresses : sequence of str
        Of each rank's worker.
    shared : bool
        Use shared memory where ranks are on one host.

    Raises
    ------
    PeerLostError
        Another rank did not come.
    """
    from distributed import get_worker

    warm_up(ring.warm_up_calls())
    worker = get_worker()
    attend(worker)
    return Peers(run, rank, addresses, worker, shared)
