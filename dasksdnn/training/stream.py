"""Samples in shuffled order, from a dataset that need not fit in memory.

    blocks       7 2 9 | 4 0 5 | ...      read in an order that is drawn for each epoch
    buffer       shuffled within          one is used while the next is read
    batches      cut from the stream of buffers, across their ends

A dataset of one buffer is read in one piece, which for an array in memory is no copy at all.

Every sample comes once an epoch. The order depends on (seed, epoch) and on how the blocks and buffers are cut, never on time.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.network import Array
from dasksdnn.sources.blocks import Dataset, SparseRows, check_finite

#: Bytes of samples, as the source has them, that are shuffled together.
BUFFER_BYTES = 64 << 20
#: Blocks of a buffer, at the least, where there are several buffers.
BLOCKS = 8

#: Bytes of a sample's number, and of its place in the shuffled order; while they are drawn, of one more.
_NUMBERS, _DRAWING = 16, 24
# The second word of each random stream's seed, as in sources/draws.py, so that none is that of another use.
_BLOCKS, _SAMPLES = 5, 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples: their numbers in the dataset, and an array or csr_array of shape (samples, features)."""

    samples: Array
    rows: Any


class SampleStream:
    """A dataset in batches.

    Parameters
    ----------
    dataset : Dataset
    dtype : numpy dtype
        Of the batches.
    batch, seed : int
    buffer : int, optional
        Samples that are shuffled together; by default `BUFFER_BYTES` of them.
    shuffle : bool
        False: in the dataset's order.
    """

    def __init__(
        self,
        dataset: Dataset,
        dtype: np.dtype[Any],
        batch: int,
        seed: int,
        buffer: int | None = None,
        *,
        shuffle: bool = True,
    ) -> None:
        self._dataset, self._dtype, self._batch, self._seed, self._shuffle = dataset, dtype, batch, seed, shuffle
        # What each row takes where all take the same, 0 for sparse ones.
        self._row = 0 if isinstance(dataset, SparseRows) else int(getattr(dataset, "row_bytes", 0))
        samples = max(1, dataset.samples)
        some = min(samples, 1024)
        each = _NUMBERS + (self._row or dataset.block_bytes(some) // some)
        self._buffer = min(samples, buffer or max(1, BUFFER_BYTES // each))
        several = self._buffer < samples
        self._block = samples
        if several:
            # Pieces of the source's own blocks, equal ones where they can be: one that straddles two chunks decodes both.
            least = -(-dataset.block // max(1, self._buffer // BLOCKS))
            pieces = next((n for n in range(least, 2 * least) if dataset.block % n == 0), least)
            self._block = -(-dataset.block // pieces)
        self._each = self._buffer // self._block  # blocks of a buffer

    @property
    def nbytes(self) -> int:
        """Bytes that are held at most.

        A buffer in use, while the blocks of the next one are read and joined; and two batches, as gathered and as given.
        """
        data, rows = self._dataset, self._buffer
        batch = min(self._batch, max(1, data.samples))
        held, buffers = self._source(rows), -(-batch // rows)
        if rows < data.samples:
            reading = 3 * held + data.block_bytes(self._block) + rows * (_NUMBERS + _DRAWING)
            # A batch may need all of another buffer, or of several.
            reading += (batch > rows - self._block) * buffers * (held + rows * _NUMBERS)
        else:
            reading = data.block_bytes(rows) + rows * _DRAWING
        gathered = min(batch * (self._row or data.block_bytes(1)), (buffers + 1) * held)
        return reading + 2 * (gathered + self._given(batch, gathered)) + batch * _DRAWING

    def _source(self, samples: int) -> int:
        """Bytes of whole blocks of so many samples, as the source has them, whichever they are."""
        if self._row:
            return samples * self._row
        each = self._dataset.block_bytes
        return min(samples * each(1), -(-samples // self._block) * each(self._block))

    def _given(self, batch: int, gathered: int) -> int:
        """Bytes of a batch in the stream's dtype."""
        if self._row:
            return batch * self._dataset.features * self._dtype.itemsize
        source = getattr(self._dataset, "dtype", self._dtype).itemsize
        return max(gathered, gathered * (self._dtype.itemsize + 4) // (source + 4))  # an entry and its column

    def batches(self, epoch: int, skip: int = 0) -> Generator[Batch, None, None]:
        """Give the batches of an epoch, but for the first `skip`, of which nothing is read but where a buffer is shared.

        Closing it ends its thread, as soon as the block that is being read is there.

        Raises
        ------
        InputError
            The dataset cannot be read, or a value is not finite; names the sample.
        """
        blocks = self._blocks(epoch)
        starts = self._starts(blocks)
        at, total, buffers = skip * self._batch, int(starts[-1]), len(starts) - 1
        number = int(np.searchsorted(starts, at, "right")) - 1
        held: list[tuple[Array, Any]] = []
        stop = Event()
        with ThreadPoolExecutor(1, "sdnn-samples") as pool:
            ahead: Future[tuple[Array, Any]] | None = None
            try:
                while at < total:
                    want = min(self._batch, total - at)
                    while sum(ids.size for ids, _ in held) < want:
                        ids, rows = (ahead or pool.submit(self._read, blocks, epoch, number, stop)).result()
                        ahead = None
                        offset = max(0, at + sum(i.size for i, _ in held) - int(starts[number]))
                        held.append((ids[offset:], _Rows(rows, offset)))
                        number += 1
                    at += want
                    batch = self._cut(held, want)
                    # Not before: what the batch has used up of the last buffer is free only now.
                    if ahead is None and number < buffers:
                        ahead = pool.submit(self._read, blocks, epoch, number, stop)
                    yield batch
            finally:
                stop.set()

    def _cut(self, held: list[tuple[Array, Any]], want: int) -> Batch:
        """Take the next samples from the buffers that are held."""
        ids, rows, missing = [], [], want
        while missing:
            some, source = held[0]
            count = min(missing, some.size)
            ids.append(some[:count])
            rows.append(source.take(count))
            missing -= count
            if count == some.size:
                held.pop(0)
            else:
                held[0] = (some[count:], source)
        samples = np.concatenate(ids)
        if len(rows) == 1:
            whole = rows[0]
        else:
            whole = scipy.sparse.vstack(rows, "csr") if scipy.sparse.issparse(rows[0]) else np.concatenate(rows)
        return Batch(samples, self._checked(whole, samples))

    def _checked(self, rows: Any, samples: Array) -> Any:
        whole = rows.dtype.kind != "f"  # such values are finite in any dtype of a network
        with np.errstate(over="ignore", invalid="ignore"):
            if scipy.sparse.issparse(rows):
                rows = scipy.sparse.csr_array(rows, dtype=self._dtype)
            else:
                rows = np.ascontiguousarray(rows, self._dtype)
            values = rows.data if scipy.sparse.issparse(rows) else rows
            sound = whole or np.isfinite(values.sum(dtype=np.float64))
        if not sound:
            for i, sample in enumerate(samples.tolist()):  # one of them is to be named
                check_finite(rows[i : i + 1], self._dataset.name, sample)
        return rows

    def _blocks(self, epoch: int) -> Array:
        """Numbers of the blocks, in the order in which they are read."""
        count = -(-self._dataset.samples // self._block)
        if not self._shuffle:
            return np.arange(count)
        return np.random.default_rng([self._seed, _BLOCKS, epoch]).permutation(count)

    def _starts(self, blocks: Array) -> Array:
        """Where in the epoch each buffer begins, and the last one ends."""
        sizes = np.minimum(self._block, self._dataset.samples - blocks * self._block)
        ends = np.cumsum(sizes)
        return np.concatenate([[0], ends[self._each - 1 : -1 : self._each], ends[-1:]])

    def _read(self, blocks: Array, epoch: int, number: int, stop: Event) -> tuple[Array, Any]:
        """One buffer, shuffled: numbers of its samples, and their rows in the source's own dtype."""
        starts = blocks[number * self._each : (number + 1) * self._each] * self._block
        spans = [(a, min(a + self._block, self._dataset.samples)) for a in starts.tolist()]
        ids = np.concatenate([np.arange(a, b) for a, b in spans])
        order = np.arange(ids.size)
        if self._shuffle:
            np.random.default_rng([self._seed, _SAMPLES, epoch, number]).shuffle(order)
        read = []
        for a, b in spans:
            if stop.is_set():
                raise CancelledError
            read.append(self._dataset.read(a, b))
        if len(read) == 1:
            rows = read[0]
        elif scipy.sparse.issparse(read[0]):
            rows = scipy.sparse.vstack(read, "csr")
        else:
            rows = np.concatenate(read)
        return ids[order], (rows, order)


class _Rows:
    """The rows of a buffer that are left, gathered in their shuffled order a batch at a time."""

    def __init__(self, shuffled: tuple[Any, Array], at: int) -> None:
        self._rows, self._order = shuffled
        self._at = at

    def take(self, count: int) -> Any:
        """The next rows."""
        self._at += count
        return self._rows[self._order[self._at - count : self._at]]
