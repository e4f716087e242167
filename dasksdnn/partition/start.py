"""The first assignment, layer after layer: each by a method that knows the owners of the layer before.

METIS does not look at the layer before (its groups of rows are named afterwards), so it works ahead, a helper process for
each layer at hand; the other methods wait for the owners.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from dasksdnn.errors import InputError, PartitionerError
from dasksdnn.network import Array, Network
from dasksdnn.partition import partitioners
from dasksdnn.partition.native import Helper
from dasksdnn.partition.partitioners import Task
from dasksdnn.partition.relabel import layer_volume, relabel, spread

#: Names of all methods: "hypergraph" is the best of the others here, and is refined afterwards.
METHODS = ("hypergraph", *partitioners.METHODS)
#: Layers that METIS works on at once, each with a process of its own.
AHEAD = 2


def check_method(name: str) -> None:
    """Refuse a name that is no method's, with an `InputError` that lists them."""
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: use one of {', '.join(METHODS)}")


class Start:
    """Assigns layer after layer; a context manager.

    Parameters
    ----------
    net : Network
    method : str
        A name in `METHODS`; "hypergraph" is the better of METIS and Mt-KaHyPar in each layer, or METIS alone.
    nparts, epsilon, seed, timeout
        As in `partition`.
    thorough : bool
        Whether "hypergraph" asks Mt-KaHyPar too.
    """

    def __init__(
        self, net: Network, method: str, nparts: int, epsilon: float, seed: int, timeout: float, thorough: bool
    ) -> None:
        self._net, self._method, self._nparts = net, method, nparts
        self._epsilon, self._seed = epsilon, seed
        #: What went wrong and was got over: "from layer 3 on without mtkahypar: mtkahypar was killed by SIGSEGV".
        self.notes: list[str] = []
        self._libraries = ["metis", "mtkahypar"] if thorough else ["metis"]
        self._helpers = [Helper(timeout) for _ in range(AHEAD + 1)]
        self._held = ExitStack()

    def __enter__(self) -> Start:
        # Helpers end first: their processes are the children of the threads that started them.
        self._ahead = self._held.enter_context(ThreadPoolExecutor(AHEAD, "sdnn-metis"))
        for helper in self._helpers:
            self._held.enter_context(helper)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:  # threads that wait for an answer get none, and ask no more
            for helper in self._helpers:
                helper.end()
        self._held.close()

    def layers(self) -> Iterator[tuple[Any, Array]]:
        """Yield each layer's weights and the part of each of its rows, int64."""
        before: Array | None = None
        for k, (weights, groups) in enumerate(self._with_groups()):
            task = self._task(k, weights, before, self._helpers[-1])
            try:
                rows = self._assign(k, task, groups)
            except PartitionerError as error:
                raise PartitionerError(f"layer {k + 1}: {error}") from error
            yield weights, rows
            before = rows

    def _task(self, k: int, weights: Any, before: Array | None, helper: Helper) -> Task:
        return Task(weights, before, self._nparts, self._epsilon, layer_seed(self._seed, k), helper)

    def _with_groups(self) -> Iterator[tuple[Any, Future[Array] | None]]:
        """Yield the layers' weights, METIS already at work on them and on some that follow."""
        if self._method not in ("metis", "hypergraph") or self._nparts == 1:
            yield from ((layer.weights, None) for layer in self._net)
            return
        waiting: deque[tuple[Any, Future[Array] | None]] = deque()
        for k, layer in enumerate(self._net):
            groups = None
            if "metis" in self._libraries:
                task = self._task(k, layer.weights, None, self._helpers[k % AHEAD])
                groups = self._ahead.submit(partitioners.metis, task)
            waiting.append((layer.weights, groups))
            if len(waiting) == AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _assign(self, k: int, task: Task, groups: Future[Array] | None) -> Array:
        if task.nparts == 1:
            return np.zeros(task.weights.shape[0], np.int64)
        if not task.weights.nnz:
            if groups is not None:
                groups.result()
            return spread(np.full(task.weights.shape[0], -1), task.nparts)
        if self._method == "hypergraph":
            owner = self._best(k, task, groups)
        elif groups is not None:
            owner = self._named(task, groups)
        else:
            owner = partitioners.METHODS[self._method](task)
        return spread(partitioners.balanced(task, owner), task.nparts)

    @staticmethod
    def _named(task: Task, groups: Future[Array]) -> Array:
        return relabel(task.weights, task.owner_in, groups.result(), task.nparts)

    def _best(self, k: int, task: Task, groups: Future[Array] | None) -> Array:
        """The best of what the libraries find. One that fails is not asked again; blocks of rows stand in for all of them."""
        found = []
        for library in list(self._libraries):
            try:
                owner = partitioners.mtkahypar(task) if library == "mtkahypar" else self._grouped(task, groups)
                found.append(partitioners.balanced(task, owner))
            except PartitionerError as error:
                self._libraries.remove(library)
                self.notes.append(f"from layer {k + 1} on without {library}: {str(error).partition(';')[0]}")
                if not self._libraries:
                    self.notes.append(f"from layer {k + 1} on rows start in blocks")
        if not found:
            owner = relabel(task.weights, task.owner_in, partitioners.block(task), task.nparts)
            found.append(partitioners.balanced(task, owner))
        return min(found, key=lambda owner: layer_volume(task.weights, task.owner_in, owner, task.nparts))

    def _grouped(self, task: Task, groups: Future[Array] | None) -> Array:
        assert groups is not None  # METIS is asked for every layer as long as it is on the list
        return self._named(task, groups)


def layer_seed(seed: int, k: int) -> int:
    """Independent from layer to layer, and a positive int32, which is all that some libraries take."""
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0] >> 1)
