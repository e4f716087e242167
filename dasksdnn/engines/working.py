"""The working state of training: slabs that stay in memory, and slabs that pass between a scratch file and buffers.

    scratch   [ slab 2 | slab 3 | slab 4 | ... ]       one record a slab, read and written in one piece
                 |  ^
        read ahead  written behind
                 v  |
    memory    slab 0, slab 1 (stay)    buffer   buffer   buffer

    record:   pattern | bias, weights | moments | gradient | pattern by columns
              '------ forward ------'
                        '------------- state -------------'

The scratch file has no name: whatever ends the process, nothing of it is left. What counts is in the store's checkpoints.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from dasksdnn.atomic import storage_error
from dasksdnn.engines.loading import Slab, fill_state, load
from dasksdnn.engines.part import Part
from dasksdnn.engines.shares import Share, whole
from dasksdnn.errors import InputError, StoreError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.kernels.chain import Chain
from dasksdnn.kernels.panels import LINE
from dasksdnn.kernels.passes import Backs, make_backs
from dasksdnn.network import Array
from dasksdnn.plan.training import TrainingSettings
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store

_FORWARD = ("indptr", "supernodes", "indices", "ids", "bias", "data")
_BACK = ("columns", "indptr", "supernodes", "indices", "order")


class Need(Enum):
    """What a slab is wanted for: the way forward alone, all of it to look at, or all of it to change."""

    FORWARD = 0
    LOOK = 1
    CHANGE = 2


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    dtype: np.dtype[Any]
    size: int
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a slab's arrays stand in its record, and the record in the scratch file."""

    first: int
    fields: dict[str, _Field]
    spans: Array
    back_spans: Array
    inputs: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return -(-max(f.stop for f in self.fields.values()) // LINE) * LINE

    @property
    def forward(self) -> tuple[int, int]:
        return 0, self.fields["data"].stop

    @property
    def state(self) -> tuple[int, int]:
        return self.fields["bias"].start, self.fields["back_columns"].start

    def view(self, buffer: Array, name: str) -> Array:
        f = self.fields[name]
        view: Array = buffer[f.start : f.stop].view(f.dtype)
        return view


class Working:
    """The state of a training run. Used by one thread; close it when done.

    Parameters
    ----------
    store : Store
        Its values are where training begins.
    settings : TrainingSettings
    moments : tuple of str
        Names of the optimizer's moments; read from the store where it has them and `restore` is set, else zero.
    restore : bool
    scratch : path or None
        Folder of the scratch file; by default the system's for temporary files.
    listener : callable
        Told of slabs loaded.
    share : Share, optional
        The parts that are trained here; by default all.

    Attributes
    ----------
    read, written : int
        Bytes from and to scratch so far.
    """

    def __init__(
        self,
        store: Store,
        settings: TrainingSettings,
        moments: Sequence[str],
        *,
        restore: bool = False,
        scratch: str | os.PathLike[str] | None = None,
        listener: Listener = ignore,
        share: Share | None = None,
    ) -> None:
        self.store, self.settings, self.moments = store, settings, tuple(moments)
        self.share = share or whole(store)
        self.read = self.written = 0
        self._counts: Array | None = None
        self._records: list[_Record] = []
        self._resident: dict[int, Array] = {}
        self._writes: dict[int, Future[None]] = {}
        self._file = -1
        self._folder = Path(scratch) if scratch is not None else Path(tempfile.gettempdir())
        self._reader, self._writer = (ThreadPoolExecutor(1, f"sdnn-{name}") for name in ("read", "write"))
        self._free: SimpleQueue[Array] = SimpleQueue()
        self._sums = (np.empty(0, store.dtype), np.empty(0, store.dtype))
        try:
            self._load(restore, listener)
        except BaseException:
            self.close()
            raise

    # -- loading

    def _load(self, restore: bool, listener: Listener) -> None:
        for j, (first, last) in enumerate(self.settings.slabs):
            _check_layers(self.store, first, last)
            slab = load(self.store, first, last, self.share)
            backs = make_backs(slab.chain)
            record = self._record(slab, backs, self._records[-1] if j > self.settings.resident else None)
            buffer = _buffer(record.nbytes)
            self._fill(record, buffer, slab, backs, restore)
            del slab, backs
            self._records.append(record)
            if j < self.settings.resident:
                self._resident[j] = buffer
            else:
                self._put(j, buffer, (0, record.nbytes))
            listener(Progress("load", last, len(self.store), "layers"))
        if not self.settings.held:
            edges = int(self._held_counts()[:, :, 0].sum(axis=1).max())
            self._sums = (np.empty(edges, self.store.dtype), np.empty(max(self.share.widths[1:]), self.store.dtype))
        passing = [r.nbytes for r in self._records[self.settings.resident :]]
        for _ in range(self.settings.buffers if passing else 0):
            self._free.put(_buffer(max(passing)))

    def _record(self, slab: Slab, backs: Backs, before: _Record | None) -> _Record:
        chain, value = slab.chain, self.store.dtype
        sizes: list[tuple[str, Any, int]] = [
            ("indptr", np.int64, chain.indptr.size),
            ("supernodes", np.int64, chain.supernodes.size),
            ("indices", chain.indices.dtype, chain.indices.size),
            ("ids", np.uint32, sum(chain.widths)),
        ]
        for name in ("", *(f"_{m}" for m in self.moments), *(["_gradient"] if self.settings.held else [])):
            sizes += [(f"bias{name}", value, chain.bias.size), (f"data{name}", value, chain.data.size)]
        sizes += [(f"back_{name}", getattr(backs, name).dtype, getattr(backs, name).size) for name in _BACK]
        fields, reached = {}, 0
        for name, dtype, size in sizes:
            fields[name] = _Field(name, np.dtype(dtype), size, reached)
            reached = -(-fields[name].stop // LINE) * LINE
        offset = before.offset + before.nbytes if before else 0
        return _Record(slab.first, fields, chain.spans, backs.spans, chain.inputs, offset)

    def _fill(self, record: _Record, buffer: Array, slab: Slab, backs: Backs, restore: bool) -> None:
        chain = slab.chain
        for name in _FORWARD:
            source = slab.ids() if name == "ids" else getattr(chain, name)
            record.view(buffer, name)[:] = source
        for name in _BACK:
            record.view(buffer, f"back_{name}")[:] = getattr(backs, name)
        for moment in self.moments:
            for kind in ("data", "bias"):
                target = record.view(buffer, f"{kind}_{moment}")
                target[:] = 0
                if restore:
                    fill_state(self.store, slab, f"{kind}_{moment}", target)
        if self.settings.held:
            for kind in ("data", "bias"):
                record.view(buffer, f"{kind}_gradient")[:] = 0

    # -- slabs, in the order in which a step needs them

    def sweep(self, order: Sequence[tuple[int, Need]]) -> Generator[Part, None, None]:
        """Give the slabs of a sequence one after the other, each for what it is needed.

        The state of what is changed is written back. A part is void when the next one is asked for.
        """
        ahead: Future[Array] | None = None
        buffer: Array | None = None
        try:
            for i, (j, need) in enumerate(order):
                following = order[i + 1] if i + 1 < len(order) else None
                if j in self._resident:
                    if ahead is None and self.settings.buffers > 1:
                        ahead = self._ahead(order, i + 1)
                    yield self._part(j, self._resident[j])
                    continue
                if buffer is None:
                    buffer = (ahead or self._ahead(order, i) or Future()).result()
                    ahead = None
                stays = following is not None and following[0] == j
                if ahead is None and self.settings.buffers > 1 and not stays:
                    ahead = self._ahead(order, i + 1)
                yield self._part(j, buffer)
                if not stays:
                    used, buffer = buffer, None
                    self._release(j, used, need is Need.CHANGE)
        finally:
            if buffer is not None:
                self._free.put(buffer)
            if ahead is not None and ahead.exception() is None:
                self._free.put(ahead.result())

    def _whole(self, order: Sequence[tuple[int, Need]], i: int) -> bool:
        """Whether all of a slab is needed: now, or next, while it is in its buffer still."""
        return any(j == order[i][0] and need is not Need.FORWARD for j, need in order[i : i + 2])

    def _ahead(self, order: Sequence[tuple[int, Need]], i: int) -> Future[Array] | None:
        """Begin to read the next slab that does not stay."""
        for at in range(i, len(order)):
            j = order[at][0]
            if j not in self._resident:
                record = self._records[j]
                part = (0, record.nbytes) if self._whole(order, at) else record.forward
                return self._reader.submit(self._get, j, part)
        return None

    def _get(self, j: int, part: tuple[int, int]) -> Array:
        if (write := self._writes.get(j)) is not None:
            write.result()  # one that failed stays, and fails whoever wants the slab
            self._writes.pop(j, None)
        buffer = self._free.get()
        try:
            self._read(j, buffer[part[0] : part[1]], part[0])
        except BaseException:
            self._free.put(buffer)
            raise
        self.read += part[1] - part[0]
        return buffer

    def _release(self, j: int, buffer: Array, changed: bool) -> None:
        if changed:
            self._writes[j] = self._writer.submit(self._put_back, j, buffer)
            if self.settings.buffers == 1:
                self._writes[j].result()
        else:
            self._free.put(buffer)

    def _put_back(self, j: int, buffer: Array) -> None:
        try:
            self._put(j, buffer, self._records[j].state)
        finally:
            self._free.put(buffer)

    def _part(self, j: int, buffer: Array) -> Part:
        record, first = self._records[j], self._records[j].first

        def view(name: str) -> Array:
            return record.view(buffer, name)

        length = record.spans.shape[0] - 1
        activations = self.store.activations[first : first + length]
        indptr, indices, data, bias, supernodes = map(view, ("indptr", "indices", "data", "bias", "supernodes"))
        chain = Chain(indptr, indices, data, bias, supernodes, record.spans, activations, record.inputs)
        listed, pointers, nodes, rows, order = (view(f"back_{name}") for name in _BACK)
        backs = Backs(listed, pointers, rows, order, nodes, record.back_spans)
        sums = (view("data_gradient"), view("bias_gradient")) if self.settings.held else self._sums
        return Part(
            first,
            chain,
            backs,
            view("ids"),
            tuple(view(f"data_{m}") for m in self.moments),
            tuple(view(f"bias_{m}") for m in self.moments),
            sums[0],
            sums[1],
            self.store.activations[first - 1] if first else None,
        )

    # -- the scratch file

    def _open(self) -> int:
        if self._file < 0:
            try:
                self._file, name = tempfile.mkstemp(prefix="dasksdnn-training-", dir=self._folder)
                os.unlink(name)
            except OSError as error:
                raise self._fault(error) from error
        return self._file

    def _put(self, j: int, buffer: Array, part: tuple[int, int]) -> None:
        view, at = buffer[part[0] : part[1]].data, self._records[j].offset + part[0]
        try:
            while len(view):
                count = os.pwrite(self._open(), view[: 1 << 30], at)
                view, at = view[count:], at + count
        except OSError as error:
            raise self._fault(error) from error
        self.written += part[1] - part[0]

    def _read(self, j: int, target: Array, start: int) -> None:
        view, at = target.data, self._records[j].offset + start
        while len(view):
            try:
                count = os.preadv(self._open(), [view[: 1 << 30]], at)
            except OSError as error:
                raise self._fault(error) from error
            if not count:
                raise StoreError(f"{self._folder}: the scratch file of training ends early: start again with --resume")
            view, at = view[count:], at + count

    def _fault(self, error: OSError) -> StoreError:
        return StoreError(f"scratch of training: {storage_error(self._folder, error)}, with --scratch (scratch=)")

    def flush(self) -> None:
        """Wait until all that was changed is in the scratch file."""
        for j in list(self._writes):
            self._writes[j].result()
            self._writes.pop(j, None)

    # -- for checkpoints

    def values(self, window: Window, name: str) -> Array:
        """One array of a window's state, as a checkpoint stores it: weights, biases, moments.

        Parameters
        ----------
        window : Window
        name : str
            "data", "bias", or one of these, an underscore and a moment's name.
        """
        self.flush()
        kind = name.partition("_")[0]
        pieces = []
        for k in range(window.first, window.last):
            start, count = self._share(window.part, k, kind)
            pieces.append(self._piece(k, kind, name, start, count))
        return np.concatenate(pieces)

    def _share(self, part: int, k: int, kind: str) -> tuple[int, int]:
        """Where in a merged layer a part's rows, or entries, stand, and how many there are."""
        column = 0 if kind == "data" else 1
        sizes = self._sizes(k)[:, column]
        at = self.share.parts.index(part)
        return int(sizes[:at].sum()), int(sizes[at])

    def _held_counts(self) -> Array:
        """Entries and rows of each block that is held, shape (layers, parts held, 2)."""
        if self._counts is None:
            rows = np.stack([np.bincount(o, minlength=self.store.nparts) for o in self.store.owner[1:]])
            self._counts = np.stack([self.store.block_nonzeros(), rows], axis=2)[:, list(self.share.parts)]
        return self._counts

    def _sizes(self, k: int) -> Array:
        counts: Array = self._held_counts()[k]
        return counts

    def _piece(self, k: int, kind: str, name: str, start: int, count: int) -> Array:
        j = next(i for i, (first, last) in enumerate(self.settings.slabs) if first <= k < last)
        record = self._records[j]
        f, column = record.fields[name], 1 if kind == "data" else 2
        low = int(record.spans[k - record.first, column]) + start
        if j in self._resident:
            return record.view(self._resident[j], name)[low : low + count]
        out: Array = np.empty(count, f.dtype)
        self._read(j, out.view(np.uint8), f.start + low * f.dtype.itemsize)
        return out

    def close(self) -> None:
        """End the threads, and give the scratch file's space back."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._resident.clear()


def _check_layers(store: Store, first: int, last: int) -> None:
    """Refuse layers whose entries 32 bits cannot number: the pattern by columns names them so."""
    for k, edges in enumerate(store.block_nonzeros()[first:last].sum(axis=1).tolist(), start=first + 1):
        if edges >= 1 << 32:
            raise InputError(
                f"{store.path}: layer {k} has {edges:,} weights: a layer to be trained has fewer than 2^32"
            )


def _buffer(nbytes: int) -> Array:
    """Bytes that begin at a cache line."""
    held = np.empty(nbytes + LINE, np.uint8)
    start = -held.ctypes.data % LINE
    return held[start : start + nbytes]
