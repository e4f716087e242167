"""A rank that holds its share of a network ready, and takes samples through it in step with the other owners.

plan    one for all ranks: for the largest share, in the least room
hold    the share's weights, panels, and room for what comes from others
run     samples -> layers -> outputs, each passed on by one owner
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import numpy as np

from dasksdnn import config, host
from dasksdnn.compiling import warm_up
from dasksdnn.engines import local, session
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.inference import BLOCK_BYTES, DEFAULT_SHARE, prepare
from dasksdnn.engines.loading import positions_dtype, sizes_of
from dasksdnn.engines.passage import Mine, Together
from dasksdnn.engines.shares import Share, share_of, whole
from dasksdnn.engines.transport import gather
from dasksdnn.engines.weights import Weights
from dasksdnn.events import Listener, ignore
from dasksdnn.kernels import relay
from dasksdnn.kernels import rows as row_kernels
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings, Sizes, largest_sizes
from dasksdnn.plan.schedule import STRIP, Plan, plan_inference
from dasksdnn.store.reader import Store

#: Panels that go together where compiled code sends: a panel's messages leave as soon as it is computed.
SENT_AT_ONCE = 4
#: Elsewhere a message is work for Python, and a few long ones pass more bytes: half of a group's is to be about so long.
MESSAGE, MOST = 16 << 20, 32


@dataclass(frozen=True, slots=True)
class Room:
    """What a rank may use.

    Attributes
    ----------
    budget, reserved : int
        Bytes that it may hold, and that it holds already.
    threads : int
    caches : (int, int)
        Bytes of the second and the last level.
    """

    budget: int
    reserved: int
    threads: int
    caches: tuple[int, int]


def room(memory: str | int | None, threads: int, ranks: int = 1) -> Room:
    """What this process may use beside so many ranks on its host, itself included; `memory` is its own."""
    named = host.parse_bytes(memory if memory is not None else config.get("memory"))
    session.release()  # what lazy chunks left would count as held already
    reserved = host.resident()
    budget = named or reserved + int(DEFAULT_SHARE * host.memory_available() / ranks)
    return Room(budget, reserved, threads, host.caches())


@dataclass(frozen=True, slots=True)
class Task:
    """What a member is to hold itself ready for.

    Attributes
    ----------
    dataset : Dataset
        Like what it will be given: of as many features, in such blocks.
    samples : int
        At most so many at once.
    outputs : int
        Of the network.
    unit : int
        Samples that are written together, by one owner.
    rows : bool
        Outputs are wanted, not only which of them are not zero.
    output_bytes : callable
        Bytes that the sink holds under given settings.
    """

    dataset: Any
    samples: int
    outputs: int
    unit: int
    rows: bool
    output_bytes: Callable[[Settings], int]


class Member:
    """One rank of a grid; all make the same calls. Close it when done.

    Parameters
    ----------
    store : Store
    grid : Grid
    to : sequence of int
        The owner of each part.
    limits : Room
    task : Task
    listener : callable
        Told of kernels that have to be compiled.

    Attributes
    ----------
    plan : Plan
        The same at each rank.
    passage : Together or None
        None: this rank has all parts.

    Raises
    ------
    MemoryBudgetError
        At each rank.
    """

    def __init__(
        self, store: Store, grid: Grid, to: tuple[int, ...], limits: Room, task: Task, listener: Listener = ignore
    ) -> None:
        self.store, self.grid, self._task = store, grid, task
        self.share: Share = share_of(store, to, grid.owner) if grid.owners > 1 else whole(store)
        prepare(store, listener)
        if grid.owners > 1:
            warm_up(self._kernels(), listener)
        # By now, what is held for any run is there.
        limits = replace(limits, reserved=max(limits.reserved, host.resident()))
        mine = (sizes_of(store, self.share), words_held(self.share), routes_bytes(self.share), limits)
        sizes, words, routing, every = zip(*gather(grid.transport, mine), strict=True)
        reserved = max(r.reserved for r in every)
        least = Room(
            reserved + min(r.budget - r.reserved for r in every),
            reserved,
            min(r.threads for r in every),
            min(r.caches for r in every),
        )
        at_once = grid.transport.wire is not None
        self.plan: Plan = plan_share(largest_sizes(sizes), max(words), max(routing), grid.owners, least, task, at_once)
        self.passage: Together | None = None
        if grid.owners > 1:
            self.passage = Together(self.share, grid, self.plan.settings, task.rows)
        own = local.layers_that_map_zero_to_zero(store, self.share.parts)
        self._weights = Weights(store, self.plan.settings, self.share)
        self._weights.zero_to_zero = np.stack(gather(grid.transport, own)).min(axis=0)

    def _kernels(self) -> list[Any]:
        calls = row_kernels.warm_up_calls(self.store.dtype)
        if self.grid.transport.wire is not None:
            calls += relay.warm_up_calls(self.store.dtype, positions_dtype(self.store))
        return calls

    def run(
        self, dataset: Any, first: int, sink: Any, listener: Listener = ignore, stop: Event | None = None
    ) -> local.RunReport:
        """Take samples through the network.

        Parameters
        ----------
        dataset : Dataset
            The same at each owner of a replica.
        first : int
            Sample 0 of it is this one of what is written.
        sink : Sink
            Given those samples that this rank passes on, numbered from `first`.
        listener : callable
            Told of them.
        stop : Event, optional
        """
        unit, owners = self._task.unit, self.grid.owners

        def mine(samples: Array, owner: int) -> Array:
            found: Array = (samples + first) // unit % owners == owner
            return found

        if self.passage is not None:
            self.passage.mine = mine
        own = Mine(sink, first, lambda samples: mine(samples, self.grid.owner))
        settings = self.plan.settings
        return local.run(
            self.store, dataset, own, settings, listener, weights=self._weights, stop=stop, passage=self.passage
        )

    def close(self) -> None:
        """Give the weights back."""
        self._weights.close()


def words_held(share: Share) -> int:
    """Values of a sample for which messages of one layer need room: those that leave, are under way, and have come."""
    return 3 * max(max(c.words, int(c.received.size)) for c in share.crossings)


def routes_bytes(share: Share) -> int:
    """Bytes of the lists of rows that a share sends, as exchanges hold them."""
    return 8 * sum(c.words for c in share.crossings)


def plan_share(sizes: Sizes, words: int, routing: int, owners: int, limits: Room, task: Task, at_once: bool) -> Plan:
    """Plan a member's run.

    Parameters
    ----------
    sizes : Sizes
        Of the largest share.
    words, routing : int
        See `words_held` and `routes_bytes`.
    owners : int
    limits : Room
    task : Task
    at_once : bool
        Compiled code sends.
    """
    dataset, itemsize = task.dataset, sizes.itemsize
    row = int(dataset.features) * itemsize
    delivered = 3 * task.outputs if owners > 1 and task.rows else 1

    def output_bytes(settings: Settings) -> int:
        return task.output_bytes(settings) + routing + (settings.group * words + delivered) * settings.tile * itemsize

    return plan_inference(
        sizes,
        task.samples,
        limits.budget,
        reserved=limits.reserved,
        threads=limits.threads,
        caches=limits.caches,
        input_bytes=lambda n: int(dataset.block_bytes(n)) + n * row,
        output_bytes=output_bytes,
        rows=max(1, min(int(dataset.block), BLOCK_BYTES // row)),
        together=_groups(words, at_once) if owners > 1 else (),
    )


def _groups(words: int, at_once: bool) -> list[int]:
    """Panels that may go together, the best first."""
    if at_once:
        return [SENT_AT_ONCE]
    most = max(1, min(MOST, 2 * MESSAGE // max(1, words // 3 * STRIP)))
    return [max(1, most // part) for part in (1, 4, 16)]
