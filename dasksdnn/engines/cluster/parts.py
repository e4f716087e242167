r"""Parts split: a task graph for each batch, one task for each owner between exchanges, slices as results of their own.

    owner 0   begin ----> onward ----> onward ----> ...     panels: never leave the worker that holds the parts
                  \ piece  ^  \ piece
                   \       |   \
    owner 1   begin -+----> onward -+-> onward ----> ...     pieces: what the plan says, and nothing else, crosses
                  \ signs       \ signs
                   +-> bury       +-> bury -> ...           bits: which samples are alive anywhere

Every task says where it runs, and a batch is small, so a worker that goes costs the batches in flight: they are submitted
again to the workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import uuid4

import dask
import numpy as np

from dasksdnn.engines.cluster.stages import (
    Found,
    Job,
    begin,
    bury,
    deliver,
    found,
    last_signs,
    onward,
    piece,
    pieces_of,
    signs,
)
from dasksdnn.engines.fates import stays_zero
from dasksdnn.engines.local import layers_that_map_zero_to_zero
from dasksdnn.engines.weights import rungs
from dasksdnn.network import Array
from dasksdnn.plan.comm import CommPlan
from dasksdnn.plan.memory import Settings
from dasksdnn.store.reader import Store


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a batch's graph is made.

    Attributes
    ----------
    job : Job
    owners : int
    cuts : tuple of int
        Layers before which tasks end: where owners exchange, and where samples may leave; 0 and the last one too.
    messages : dict of layer -> list of (sender, receiver)
    deaths : dict of layer -> bool
        Where samples may leave, and whether what is zero there stays zero.
    orders : tuple of int arrays
        Neurons of each owner's outputs.
    edges : tuple of int
        Stored weights of each layer.
    """

    job: Job
    owners: int
    cuts: tuple[int, ...]
    messages: dict[int, list[tuple[int, int]]]
    deaths: dict[int, bool]
    orders: tuple[Array, ...]
    edges: tuple[int, ...]

    def lends(self, k: int) -> bool:
        """Whether owners lend slices with what they computed before layer `k`: those that go on need not be known first."""
        return self.job.lending and k in self.messages and k not in self.deaths

    @property
    def tasks(self) -> int:
        """Tasks of a batch, about."""
        pieces = sum(self.owners if self.lends(k) else len(pairs) for k, pairs in self.messages.items())
        return len(self.cuts) * self.owners + pieces + len(self.deaths) * (self.owners + 1) + self.owners + 2


def recipe(store: Store, plan: CommPlan, to: Sequence[int], settings: Settings, lending: bool) -> Recipe:
    """Prepare the graphs of a run.

    Parameters
    ----------
    store : Store
    plan : CommPlan
        Between owners.
    to : sequence of int
        The owner of each part.
    settings : Settings
        For the largest owner.
    lending : bool
        Whether slices go through shared memory.
    """
    layers = len(store)
    fate = stays_zero(layers_that_map_zero_to_zero(store))
    deaths = {last: bool(fate[last]) for _, last in rungs(settings, layers) if last < layers}
    messages = {
        k: sorted(zip(x.owners.tolist(), x.users.tolist(), strict=True))
        for k, x in enumerate(plan.layers)
        if k and x.messages
    }
    rows = [store.rows(part, layers - 1) for part in range(store.nparts)]
    none = np.empty(0, np.int64)
    orders = tuple(
        np.concatenate([none, *(rows[p] for p, o in enumerate(to) if o == owner)]) for owner in range(plan.nparts)
    )
    edges = tuple(store.block_nonzeros().sum(axis=1).tolist())
    job = Job(str(store.path), store.digest, tuple(to), settings, store.dtype.name, lending)
    return Recipe(job, plan.nparts, tuple(sorted({0, layers, *deaths, *messages})), messages, deaths, orders, edges)


#: From what was found, and the outputs (samples, outputs) or None, to what a batch gives.
Finish = Callable[[Found, Array | None], Any]


class _Graph:
    """Tasks, which owner each belongs to, and the key of the result."""

    def __init__(self, made: Recipe, samples: int) -> None:
        self._made, self._samples, self._token = made, samples, uuid4().hex
        self.tasks: dict[Any, Any] = {}
        self.places: dict[Any, int] = {}
        self.result: Any = None

    def _add(self, owner: int, name: str, place: tuple[int, ...], *task: Any) -> Any:
        key = (f"sdnn-{name}-{self._token}", *place)
        self.tasks[key], self.places[key] = task, owner
        return key

    def build(self, source: Any, finish: Finish, rows: bool) -> _Graph:
        made, job, owners = self._made, self._made.job, range(self._made.owners)
        fate: Any = None
        reached = 0
        lend = made.lends(made.cuts[1])
        tiles = [self._add(p, "begin", (p,), begin, job, p, source, made.cuts[1], lend) for p in owners]
        for k, last in pairwise(made.cuts[1:]):
            gone = None
            if k in made.deaths:
                bits = [self._add(p, "signs", (k, p), signs, tiles[p]) for p in owners]
                edges = sum(made.edges[reached:k])
                gone = fate = self._add(0, "bury", (k,), bury, fate, self._samples, edges, made.deaths[k], *bits)
                reached = k
            pieces: dict[int, list[Any]] = {p: [] for p in owners}
            lent = [self._add(p, "lent", (k, p), pieces_of, tiles[p]) for p in owners] if lend else []
            for q, p in made.messages.get(k, ()):
                taken = lent[q] if lend else self._add(q, "piece", (k, q, p), piece, job, q, p, k, tiles[q], gone)
                pieces[p].append(taken)
            lend = made.lends(last)
            tiles = [
                self._add(p, "onward", (k, p), onward, job, p, tiles[p], gone, k, last, lend, *pieces[p])
                for p in owners
            ]
        bits = [self._add(p, "signs", (made.cuts[-1], p), last_signs, tiles[p]) for p in owners]
        self.result = self._add(0, "found", (), found, fate, self._samples, sum(made.edges[reached:]), *bits)
        outputs = self._add(0, "deliver", (), deliver, job, fate, list(made.orders), *tiles) if rows else None
        self.result = self._add(0, "finish", (), finish, self.result, outputs)
        return self


def submit(
    client: Any, made: Recipe, workers: Sequence[str], source: Any, samples: int, finish: Finish, rows: bool
) -> Any:
    """Start a batch.

    Parameters
    ----------
    client : distributed.Client
    made : Recipe
    workers : sequence of str
        Address of each owner's worker.
    source : Dataset, array or Future
        The batch's samples.
    samples : int
        How many, at least 1.
    finish : callable
        Makes the result, on owner 0's worker.
    rows : bool
        It is given the outputs; else they stay where they are.

    Returns
    -------
    distributed.Future
        Of the result.
    """
    graph = _Graph(made, samples).build(source, finish, rows)
    # A builtin's partial: the scheduler calls it for every key, and need not have this package.
    where = partial(dict.__getitem__, {key: [workers[owner]] for key, owner in graph.places.items()})
    with dask.annotate(workers=where, allow_other_workers=False):
        return client.get(graph.tasks, [graph.result], sync=False)[0]
