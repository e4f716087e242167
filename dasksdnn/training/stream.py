"""Samples in shuffled order, from a dataset that need not fit in memory.

    blocks       7 2 9 | 4 0 5 | ...      read in an order that is drawn for each epoch
    buffer       shuffled within          one is used while the next is read
    batches      cut from the stream of buffers, across their ends

Every sample comes once an epoch. The order depends on (seed, epoch) and on how the blocks and buffers are cut, never on time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.network import Array
from dasksdnn.sources.blocks import Dataset, check_finite

#: Bytes of samples, as the source has them, that are shuffled together.
BUFFER_BYTES = 64 << 20
#: Blocks of a buffer, at the least, where there are several buffers.
BLOCKS = 8

_BLOCKS, _SAMPLES = range(2)


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
        samples = max(1, dataset.samples)
        each = max(1, dataset.block_bytes(min(samples, 1024)) // min(samples, 1024))
        self._buffer = min(samples, buffer or max(1, BUFFER_BYTES // each))
        several = self._buffer < samples
        self._block = min(dataset.block, max(1, self._buffer // BLOCKS) if several else samples)

    @property
    def nbytes(self) -> int:
        """Bytes that are held at most: two buffers, a block being read, and a batch of each kind."""
        held = min(self._buffer, self._dataset.samples)
        buffers = 2 if held < self._dataset.samples else 1
        row = max(1, self._dataset.block_bytes(held) // max(1, held))
        return (
            (buffers + 1) * held * row
            + self._dataset.block_bytes(min(self._block, held))
            + 2 * self._batch * (row + self._dataset.features * self._dtype.itemsize)
        )

    def batches(self, epoch: int, skip: int = 0) -> Generator[Batch, None, None]:
        """Give the batches of an epoch, but for the first `skip`, of which nothing is read but where a buffer is shared.

        Raises
        ------
        InputError
            The dataset cannot be read, or a value is not finite; names the sample.
        """
        runs = self._runs(epoch)
        starts = np.concatenate([[0], np.cumsum([sum(b - a for a, b in run) for run in runs])])
        at, total = skip * self._batch, int(starts[-1])
        number = int(np.searchsorted(starts, at, "right")) - 1
        held: list[tuple[Array, Any]] = []
        with ThreadPoolExecutor(1, "sdnn-samples") as pool:
            ahead: Future[tuple[Array, Any]] | None = None
            try:
                while at < total:
                    want = min(self._batch, total - at)
                    while sum(ids.size for ids, _ in held) < want:
                        ids, rows = (ahead or pool.submit(self._read, runs, epoch, number)).result()
                        offset = max(0, at + sum(i.size for i, _ in held) - int(starts[number]))
                        held.append((ids[offset:], _Rows(rows, offset)))
                        number += 1
                        ahead = pool.submit(self._read, runs, epoch, number) if number < len(runs) else None
                    yield self._cut(held, want)
                    at += want
            finally:
                if ahead is not None:
                    ahead.cancel()

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
        with np.errstate(over="ignore"):
            if scipy.sparse.issparse(rows):
                rows = scipy.sparse.csr_array(rows, dtype=self._dtype)
            else:
                rows = np.ascontiguousarray(rows, self._dtype)
        values = rows.data if scipy.sparse.issparse(rows) else rows
        if not np.isfinite(values.sum(dtype=np.float64)):
            for i, sample in enumerate(samples.tolist()):  # one of them is to be named
                check_finite(rows[i : i + 1], self._dataset.name, sample)
        return rows

    def _runs(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The blocks (start, stop) of each buffer."""
        samples = self._dataset.samples
        blocks = [(a, min(a + self._block, samples)) for a in range(0, samples, self._block)]
        if self._shuffle:
            order = np.random.default_rng([self._seed, epoch, _BLOCKS]).permutation(len(blocks))
            blocks = [blocks[i] for i in order.tolist()]
        return list(self._buffers(blocks))

    def _buffers(self, blocks: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        run: list[tuple[int, int]] = []
        held = 0
        for start, stop in blocks:
            if run and held + stop - start > self._buffer:
                yield run
                run, held = [], 0
            run.append((start, stop))
            held += stop - start
        if run:
            yield run

    def _read(self, runs: list[list[tuple[int, int]]], epoch: int, number: int) -> tuple[Array, Any]:
        """One buffer, shuffled: numbers of its samples, and their rows in the source's own dtype."""
        blocks = runs[number]
        ids = np.concatenate([np.arange(a, b) for a, b in blocks])
        order = np.random.default_rng([self._seed, epoch, _SAMPLES, number]).permutation(ids.size)
        if not self._shuffle:
            order = np.arange(ids.size)
        read = [self._dataset.read(a, b) for a, b in blocks]
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
