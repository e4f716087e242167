"""Graph Challenge inputs: coordinate text in any order, made readable by sample without holding it in memory.

    sample<TAB>feature<TAB>value  --chunks-->  buffer  --sorted by bucket-->  bucket files of some samples each
                                                                                 |
                                                          read(start, stop)  <---+  the few buckets that matter

One pass over the text appends 12 bytes an entry to the bucket file of its samples; reading loads bucket by bucket.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.scratch import Scratch
from dasksdnn.sources.text import MAX_INDEX, read_triplets

_RECORD = 12  # bytes: sample, feature, value
_BUFFER = 1 << 20  # entries gathered before they are sorted into buckets
_MOST_BUCKETS = 4096
_TEXT = 4 << 20  # bytes of text parsed at a time


class SpooledText:
    """A dataset in coordinate text (`sample<TAB>feature<TAB>value`, from 1), spooled to scratch files by sample.

    Parameters
    ----------
    path : path
        .tsv or .tsv.gz, in any order.
    features : int
        The network's inputs; a feature beyond them is an error.
    samples : int or None
        Number of samples; None is the largest sample seen. A sample without entries is all zeros.
    scratch : path or None
        Where scratch files go: 12 bytes an entry, removed by `close` and at exit.

    Raises
    ------
    InputError
        For any line that is not sound (see `text.read_triplets`), or scratch that cannot be written.

    Notes
    -----
    Memory while spooling is about 75 MB, whatever the size of the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        features: int,
        samples: int | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = str(path)
        self.features = features
        self._scratch = Scratch(scratch, "spool")
        rows = min(256, max(16, (2 << 20) // features))
        if samples is not None:
            rows = max(rows, -(-samples // _MOST_BUCKETS))
        buckets = _Buckets(self._scratch, rows)
        limits = (MAX_INDEX if samples is None else samples, features)
        with self._scratch.filling():
            for piece in read_triplets(
                path, limits=limits, names=("sample", "feature"), dtype=np.float32, chunk_bytes=_TEXT
            ):
                buckets.add(*piece)
            buckets.flush()
            self._rows = buckets.rows
            self.samples = buckets.largest + 1 if samples is None else samples
            self._entries = buckets.count(-(-self.samples // self._rows))
        # Several buckets a block, because a block that begins inside a bucket loads one more.
        self.block = min(self.samples, 4 * self._rows)

    def read(self, start: int, stop: int) -> Any:
        """Samples start to stop - 1 as `csr_array` of float32.

        Raises
        ------
        InputError
            For an entry that the file holds twice, or scratch files that are gone.
        """
        if not 0 <= start <= stop <= self.samples:
            raise InputError(f"{self.name}: samples {start} to {stop} asked for, of {self.samples}")
        held = range(start // self._rows, -(-stop // self._rows))
        most = int(self._entries[held.start : held.stop].sum())
        records, end = np.empty((3, most), np.int32), 0
        for bucket in held:
            part = self._load(bucket)
            inside = (part[:, 0] >= start) & (part[:, 0] < stop)
            part = part if inside.all() else part[inside]
            records[:, end : end + len(part)] = part.T
            end += len(part)
        row, column, value = records[0, :end] - np.int32(start), records[1, :end], records[2, :end].view(np.float32)
        found = scipy.sparse.coo_array((value, (row, column)), shape=(stop - start, self.features)).tocsr()
        if found.nnz != end:
            order = np.lexsort((column, row))
            twin = order[1:][(np.diff(row[order]) == 0) & (np.diff(column[order]) == 0)][0]
            where = f"sample {start + row[twin] + 1}, feature {column[twin] + 1}"
            raise InputError(f"{self.name}: {where} occurs more than once; keep one of each")
        return found

    def _load(self, bucket: int) -> Array:
        count = int(self._entries[bucket])
        if not count:
            return np.empty((0, 3), np.int32)
        try:
            part = np.fromfile(self._scratch.path / str(bucket), np.int32)
        except OSError:
            part = np.empty(0, np.int32)
        if part.size != 3 * count:
            raise InputError(f"{self.name}: its scratch files in {self._scratch.path} are gone; open it again")
        return part.reshape(-1, 3)

    def block_bytes(self, samples: int) -> int:
        """For the fullest run of buckets that so many samples can touch."""
        n = min(samples, self.samples)
        if not n:
            return 0
        span = min(len(self._entries), (n - 2) // self._rows + 2 if n > 1 else 1)
        sums = np.concatenate([[0], np.cumsum(self._entries)])
        most = int((sums[span:] - sums[:-span]).max())
        # Records (12), then rows renumbered (4) and the result (8), beside one bucket with its mask and copy.
        return 24 * most + 26 * int(self._entries.max()) + 8 * (n + 1)

    def close(self) -> None:
        """Remove the scratch files; harmless when repeated."""
        self._scratch.close()


class _Buckets:
    """Appends entries to the file of their samples; doubles the samples a file where there would be too many files."""

    def __init__(self, scratch: Scratch, rows: int) -> None:
        self._directory, self.rows = scratch.path, rows
        self.largest = -1
        self._pieces: list[Array] = []
        self._held = 0

    def add(self, sample: Array, feature: Array, value: Array) -> None:
        record = np.empty((sample.size, 3), np.int32)
        record[:, 0], record[:, 1] = sample, feature
        record[:, 2] = value.view(np.int32)
        self.largest = max(self.largest, int(sample.max()))
        self._pieces.append(record)
        self._held += sample.size
        if self._held >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Sort what is buffered by bucket, and append each run to its file."""
        if not self._pieces:
            return
        doublings = 0
        while self.largest // (self.rows << doublings) >= _MOST_BUCKETS:
            doublings += 1
        if doublings:
            self._merge(doublings)
        records = np.concatenate(self._pieces)
        self._pieces, self._held = [], 0
        bucket = (records[:, 0] // self.rows).astype(np.uint16)  # two bytes are sorted by radix, in linear time
        order = np.argsort(bucket, kind="stable")
        records, bucket = records.take(order, axis=0), bucket[order]  # take copies whole rows, indexing does not
        starts = np.flatnonzero(np.diff(bucket, prepend=bucket[0] + 1))
        for start, stop in zip(starts, [*starts[1:], len(bucket)], strict=True):
            with open(self._directory / str(bucket[start]), "ab") as file:
                file.write(records[start:stop].data)

    def _merge(self, doublings: int) -> None:
        """Ascending, so that a file's new name is free or already a merged one."""
        for old in sorted(self._directory.iterdir(), key=lambda path: int(path.name)):
            new = self._directory / str(int(old.name) >> doublings)
            if new != old:
                _append(old, new)
        self.rows <<= doublings

    def count(self, buckets: int) -> Array:
        """Entries of each bucket."""
        entries = np.zeros(buckets, np.int64)
        for path in self._directory.iterdir():
            entries[int(path.name)] = path.stat().st_size // _RECORD
        return entries


def _append(old: Path, new: Path) -> None:
    if not new.exists():
        old.rename(new)
        return
    with open(old, "rb") as source, open(new, "ab") as target:
        shutil.copyfileobj(source, target)
    old.unlink()
