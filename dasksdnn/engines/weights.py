"""Which layers are in memory: slabs that stay, or one in use and one that is read ahead."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

from dasksdnn.engines.loading import Slab, load
from dasksdnn.engines.shares import Share, whole
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings
from dasksdnn.store.reader import Store


class Weights:
    """The slabs of a store, or of an owner's parts of it, loaded as the settings say. Used by one thread at a time; close it
    when done.

    Attributes
    ----------
    loads : int
        Slabs read so far.
    zero_to_zero : bool array or None
        Which layers map zero to zero, once a run has found out: later runs need not read all biases again.
    """

    def __init__(self, store: Store, settings: Settings, share: Share | None = None) -> None:
        self.store, self.settings, self.share = store, settings, share or whole(store)
        self.loads = 0
        self.zero_to_zero: Array | None = None
        self._used = 0
        self._held: dict[int, Future[Slab]] = {}
        self._reader = ThreadPoolExecutor(1, "sdnn-read")

    def slab(self, layer: int) -> Slab:
        """The slab that holds a layer; loads it, or waits for it, where it is not in memory."""
        self._used = index = self.slab_of(layer)
        if index not in self._held:
            self._make_room(index)
            self._start(index)
        return self._held[index].result()

    def prefetch(self, layer: int) -> None:
        """Begin to read the slab of a layer that is likely to be next, where the settings allow for it."""
        index = self.slab_of(layer)
        if index not in self._held and (self.settings.prefetch or self.settings.resident):
            self._make_room(index)
            self._start(index)

    @property
    def nbytes(self) -> int:
        """Bytes of what is in memory."""
        loaded = [f.result().chain for f in self._held.values() if f.done() and f.exception() is None]
        return sum(c.data.nbytes + c.indices.nbytes + c.indptr.nbytes + c.bias.nbytes for c in loaded)

    def slab_of(self, layer: int) -> int:
        """Number of the slab that holds a layer."""
        return next(i for i, (first, last) in enumerate(self.settings.slabs) if first <= layer < last)

    def close(self) -> None:
        """Drop everything and stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def _room(self) -> int:
        if self.settings.resident:
            return len(self.settings.slabs)
        return 2 if self.settings.prefetch else 1

    def _make_room(self, wanted: int) -> None:
        """Drop what is neither wanted nor in use; a slab that is still being read must arrive before it can be dropped."""
        for index in [i for i in self._held if i not in (wanted, self._used)]:
            if len(self._held) < self._room():
                break
            self._held.pop(index).exception()

    def _start(self, index: int) -> None:
        self.loads += 1
        self._held[index] = self._reader.submit(load, self.store, *self.settings.slabs[index], self.share)


def rungs(settings: Settings, layers: int) -> list[tuple[int, int]]:
    """Cut the layers into segments, at whose ends dead samples leave: close together at first, where most die, and
    never across slabs.
    """
    ends = {0, layers, *(last for _, last in settings.slabs)}
    step = 1
    while step < layers:
        ends.update(k for k in (step, step + step // 2) if k < layers)
        step *= 2
    return list(pairwise(sorted(ends)))
