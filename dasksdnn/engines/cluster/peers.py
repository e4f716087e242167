"""Long-lived tasks that send each other arrays: through a ring of shared memory on one host, else through their workers' comms.

    rank 0   [ ring to 1 ]==> rank 1        one host: a memory file that has no name, mapped by both
    rank 0   post ~~ comm ~~> box, rank 2   another host

Who waits looks now and then whether the other is still there, and whether the run was told to end; so a rank that dies ends
all others, promptly.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import select
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Condition
from time import monotonic, sleep
from typing import Any

import numpy as np

from dasksdnn.compiling import warm_up
from dasksdnn.engines.cluster.mailbox import OPERATION, Box, aborted, attend, boxes
from dasksdnn.engines.transport import Wire
from dasksdnn.errors import PeerLostError
from dasksdnn.kernels import ring
from dasksdnn.network import Array

#: Bytes of a ring, and of a post.
RING, POST = 4 << 20, 4 << 20
#: Seconds to wait for the other ranks to join, and between looks at whether they are still there.
JOINING, LOOK = 60.0, 0.25
#: Seconds that who closes waits, at most, for what it posted last to be taken.
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
        self._others = [r for r in range(self.size) if r != rank]
        self._ready = Condition()
        self._boxes = {r: boxes.setdefault((run, r, rank), Box(self._ready)) for r in self._others}
        self._out: dict[int, Array] = {}
        self._in: dict[int, Array] = {}
        self._processes: dict[int, int] = {}
        self._posts: dict[int, Future[Any]] = {}
        self._knocks: dict[int, Future[Any]] = {}
        self._looked = 0.0
        try:
            self._join(shared)
        except BaseException:
            self.close()
            raise

    @property
    def shared(self) -> int:
        """Ranks that are reached through shared memory."""
        return len(self._out)

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
        end = monotonic() + JOINING
        while True:
            post = self._post(to, kind, value)
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

    def _post(self, to: int, kind: str, value: Any) -> Future[Any]:
        what = {"run": self.run, "source": self.rank, "to": to, "kind": kind, "value": value}
        return asyncio.run_coroutine_threadsafe(_deliver(self._worker, self._addresses[to], what), self._loop)

    @property
    def _loop(self) -> Any:
        return self._worker.loop.asyncio_loop

    # -- messages

    def send(self, to: int, values: Array) -> None:
        """See `Transport`."""
        self.exchange([(to, values)], [])

    def receive(self, source: int, out: Array) -> None:
        """See `Transport`."""
        self.exchange([], [(source, out)])

    def exchange(self, sends: Sequence[tuple[int, Array]], receives: Sequence[tuple[int, Array]]) -> None:
        """See `Transport`."""
        leaving: dict[int, list[Array]] = {}
        coming: dict[int, list[Array]] = {}
        for waiting, messages in ((leaving, sends), (coming, receives)):
            for other, values in messages:
                if not values.flags.c_contiguous:
                    raise ValueError("a message has to be a contiguous array")
                waiting.setdefault(other, []).append(values.reshape(-1).view(np.uint8))
        self.sent += sum(values.nbytes for _, values in sends)
        at = {(r, out): -ring.LENGTH for waiting, out in ((leaving, True), (coming, False)) for r in waiting}
        since, nap = monotonic(), 0.0
        while leaving or coming:
            moved = 0
            for waiting, out in ((leaving, True), (coming, False)):
                for r in list(waiting):
                    moved += self._move(r, waiting, at, out)
            if moved:
                since, nap = monotonic(), 0.0
            elif leaving or coming:
                nap = self._wait(since, nap, leaving, coming)

    def _move(self, r: int, waiting: dict[int, list[Array]], at: dict[tuple[int, bool], int], out: bool) -> int:
        """Move what can be moved now; returns how many bytes that was."""
        values, key = waiting[r][0], (r, out)
        count = self._push(r, values, at[key]) if out else self._pull(r, values, at[key])
        if count < 0:
            raise ValueError(f"rank {r} sent {-1 - count} bytes to rank {self.rank}, which expects {values.size}")
        at[key] += count
        if at[key] == values.size:
            waiting[r].pop(0)
            at[key] = -ring.LENGTH
            if not waiting[r]:
                del waiting[r]
        return count

    def _push(self, r: int, values: Array, start: int) -> int:
        if r in self._out:
            return int(ring.write(self._out[r], values, start))
        before = self._posts.get(r)
        if before is not None and not before.done():
            return 0
        if before is not None and before.result() != "taken":
            raise self._lost(r, "has left the run")
        first = max(0, start)
        length = np.array([values.size] if start < 0 else [], np.int64)
        piece = np.concatenate([length.view(np.uint8), values[first : first + POST]])
        self._posts[r] = self._post(r, "bytes", piece)
        self._posts[r].add_done_callback(self._wake)
        return int(piece.size)

    def _pull(self, r: int, values: Array, start: int) -> int:
        if r in self._in:
            return int(ring.read(self._in[r], values, start))
        return self._boxes[r].take(values, start)

    def _wait(self, since: float, nap: float, leaving: Iterable[int], coming: Iterable[int]) -> float:
        now = monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            for r in leaving:
                self._check(r, "has left the run", sending=True)
            for r in coming:
                self._check(r, "has left the run")
        if not any(r in self._in for r in (*leaving, *coming)):
            # The worker's loop, which brings what is waited for, needs the processor and the interpreter.
            with self._ready:
                if not self._distant_moves(leaving, coming):
                    self._ready.wait(LOOK)
            return nap
        if now - since < SPIN:
            ring.linger(20)
            return 0.0
        sleep(nap)
        return min(NAP, nap + 5e-5)

    def _distant_moves(self, leaving: Iterable[int], coming: Iterable[int]) -> bool:
        return any(self._posts[r].done() for r in leaving) or any(self._boxes[r].content for r in coming)

    def _wake(self, _: object) -> None:
        with self._ready:
            self._ready.notify_all()

    # -- the others

    def _check(self, r: int, what: str, end: float | None = None, sending: bool = False) -> None:
        """Raise where a rank is not there any more, or the run is to end."""
        self._check_run()
        late = end is not None and monotonic() > end
        gone = r in self._processes and _has_ended(self._processes[r])
        gone = gone or self._boxes[r].closed or (r in self._in and ring.closed(self._in[r]))
        # What a rank that has left sent before may still be there to be taken: look after it was seen to have left.
        empty = not self._boxes[r].content and not (r in self._in and ring.holds(self._in[r]))
        if late or (gone and (sending or empty)):
            raise self._lost(r, what)
        if r not in self._in and end is None and (sending or empty):
            self._knock(r)

    def _check_run(self) -> None:
        if self.run in aborted:
            raise PeerLostError(
                f"rank {self.rank} was told to end: another one was lost; go on from the last checkpoint"
            )

    def _knock(self, r: int) -> None:
        """See whether a rank on another host can still be reached; a post that waits for room says nothing of that."""
        before = self._knocks.get(r)
        if before is not None and not before.done():
            return
        if before is not None and before.result() != "taken":
            raise self._lost(r, "has left the run")
        what = {"run": self.run, "source": self.rank, "to": r, "kind": "here", "value": None}
        knock = _knock(self._worker, self._addresses[r], what)
        self._knocks[r] = asyncio.run_coroutine_threadsafe(knock, self._loop)

    def _lost(self, r: int, what: str) -> PeerLostError:
        return PeerLostError(
            f"rank {r} on worker {self._addresses[r]} {what}: go on from the last checkpoint, with the workers there are"
        )

    def close(self) -> None:
        """See `Transport`."""
        end = monotonic() + CLOSING
        for r in self._others:
            if r in self._out:
                ring.close(self._out[r])
            elif self.run not in aborted:
                post = self._posts.get(r)
                # Comms are many: what is posted later may come earlier.
                while post and monotonic() < end and not (self._boxes[r].closed or wait([post], LOOK).done):
                    pass
                with suppress(RuntimeError):  # the worker's loop has ended: so have its comms
                    self._post(r, "closed", True)
        for r in self._others:
            boxes.pop((self.run, r, self.rank), None)
        self._posts.clear()
        self._knocks.clear()
        self._out.clear()
        self._in.clear()
        while self._processes:
            os.close(self._processes.popitem()[1])


async def _deliver(worker: Any, address: str, what: dict[str, Any]) -> str:
    from distributed.protocol import to_serialize

    what = {**what, "value": to_serialize(what["value"])}
    try:
        return str(await getattr(worker.rpc(address), OPERATION)(**what))
    except OSError:
        return "nobody"


def _has_ended(process: int) -> bool:
    looking = select.poll()  # not `select`, which fails where a process has more than 1,024 files
    looking.register(process, select.POLLIN)
    return bool(looking.poll(0))


async def _knock(worker: Any, address: str, what: dict[str, Any]) -> str:
    """Deliver a note, but do not try for long to connect where nobody listens: Dask tries for half a minute."""
    from distributed.comm import connect

    try:
        comm = await connect(address, timeout=1.0, **worker.connection_args)
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConnectionRefusedError):
            cause = cause.__cause__
        # A busy worker answers late; an address that refuses has no worker.
        return "taken" if cause is None else "nobody"
    comm.abort()
    return await _deliver(worker, address, what)


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
