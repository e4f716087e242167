"""Where outputs go: an array in memory, a Zarr array written chunk by chunk, or just the categories.

Samples finish in any order, because survivors of several batches are merged; a chunk of the Zarr array is written when
its last sample is known. Rows that wait are held in memory up to a limit, and in a scratch file beyond it.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from dasksdnn.kernels.panels import alive_columns, extract_rows
from dasksdnn.network import Array
from dasksdnn.plan.memory import Settings

_PENDING, _ZERO = -1, -2

#: Bytes of a chunk of an output array, about, and of the rows that wait in memory for theirs.
CHUNK_BYTES = 2 << 20
WAITING_BYTES = 8 << 20


def rows_of(columns: Array, panel: Array, order: Array) -> Array:
    """Columns of a panel as rows (samples, outputs) in the network's own numbering."""
    rows: Array = np.empty((columns.size, order.size), panel.dtype)
    extract_rows(panel, columns, order, rows)
    return rows


class ArraySink:
    """Outputs into rows of an array in memory (or memory-mapped) of shape (samples, outputs)."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self._hold()

    def _hold(self) -> None:
        """Write a byte of every page as it is: an array that was never touched holds no memory yet, but soon will."""
        if self.out.flags.c_contiguous and self.out.size:
            pages = self.out.reshape(-1).view(np.uint8)[::4096]
            pages[...] = pages.copy()

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        self.out[samples] = rows_of(columns, panel, order)

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        self.out[samples] = 0 if output is None else output

    def nbytes(self, settings: Settings) -> int:
        """Bytes held at most: one panel's rows a thread. The array is the caller's, and resident."""
        return 2 * settings.threads * settings.tile * int(self.out.shape[1] * self.out.dtype.itemsize)


class CategorySink:
    """The samples whose output has a non-zero: `categories` after the run, ascending, 0-based."""

    def __init__(self) -> None:
        self._found: list[Array] = []
        self._lock = Lock()

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        live = alive_columns(panel, order.size, int(columns[-1]) + 1)[columns]
        with self._lock:
            self._found.append(samples[live])

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        if output is not None and output.any():
            with self._lock:
                self._found.append(samples)

    @property
    def categories(self) -> Array:
        """Sample numbers, ascending."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))

    def nbytes(self, settings: Settings) -> int:
        """Bytes held at most while running: flags; the categories themselves are the result."""
        return settings.threads * settings.tile


class Tee:
    """Several sinks at once."""

    def __init__(self, *sinks: Any) -> None:
        self._sinks = sinks

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.put(samples, columns, panel, order)

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.constant(samples, output)

    def nbytes(self, settings: Settings) -> int:
        """Bytes held at most."""
        return sum(int(sink.nbytes(settings)) for sink in self._sinks)


@dataclass(slots=True)
class _OpenChunk:
    """A chunk some of whose samples are known: for each, its slot, or that it is zero, or pending."""

    slots: Array
    pending: int
    constants: list[tuple[Array, Array]] = field(default_factory=list)


def written_together(array: Any) -> tuple[int, ...]:
    """Shape of what only one writer may write at a time: a shard, or a chunk where there are no shards."""
    return tuple(getattr(array, "shards", None) or array.chunks)


class ChunkedSink:
    """Outputs into a Zarr array of shape (samples, outputs), a whole chunk of samples at a time.

    Parameters
    ----------
    array : zarr.Array
        Chunked along samples only.
    scratch : Path, optional
        Folder for the scratch file of rows that wait; by default the system's for temporary files.
    """

    def __init__(self, array: Any, scratch: Path | None = None) -> None:
        self.array = array
        self._chunk = int(written_together(array)[0])
        self._open: dict[int, _OpenChunk] = {}
        self._rows = _WaitingRows(int(array.shape[1]), np.dtype(array.dtype), scratch)
        self._lock = Lock()

    def put(self, samples: Array, columns: Array, panel: Array, order: Array) -> None:
        """See `Sink`."""
        rows = rows_of(columns, panel, order)
        for chunk, member in self._by_chunk(samples):
            with self._lock:
                slots = self._rows.store(rows[member])
                self._mark(chunk, samples[member], slots)
            self._write_if_known(chunk)

    def constant(self, samples: Array, output: Array | None) -> None:
        """See `Sink`."""
        for chunk, member in self._by_chunk(samples):
            with self._lock:
                self._mark(chunk, samples[member], _ZERO)
                if output is not None and output.any():
                    self._open[chunk].constants.append((samples[member] - chunk * self._chunk, output))
            self._write_if_known(chunk)

    def close(self) -> None:
        """Drop the scratch file."""
        self._rows.close()

    def nbytes(self, settings: Settings) -> int:
        """Bytes held at most: rows that wait, a chunk and its encoding a thread, a panel's rows a thread."""
        row = int(self.array.shape[1] * np.dtype(self.array.dtype).itemsize)
        # Each sample that still waits for a panel may hold its chunk open, four bytes a sample.
        opened = 4 * min(int(self.array.shape[0]), settings.batch * self._chunk)
        return WAITING_BYTES + row + opened + settings.threads * (3 * self._chunk * row + 2 * settings.tile * row)

    def _by_chunk(self, samples: Array) -> list[tuple[int, Array]]:
        chunks = samples // self._chunk
        return [(int(chunk), np.flatnonzero(chunks == chunk)) for chunk in np.unique(chunks)]

    def _mark(self, chunk: int, samples: Array, slots: Array | int) -> None:
        if chunk not in self._open:
            size = min(self._chunk, int(self.array.shape[0]) - chunk * self._chunk)
            self._open[chunk] = _OpenChunk(np.full(size, _PENDING, np.int32), size)
        held = self._open[chunk]
        held.slots[samples - chunk * self._chunk] = slots
        held.pending -= samples.size

    def _write_if_known(self, chunk: int) -> None:
        with self._lock:
            held = self._open.get(chunk)
            if held is None or held.pending:
                return
            del self._open[chunk]
            stored = np.flatnonzero(held.slots >= 0)
            rows = np.zeros((held.slots.size, self.array.shape[1]), self.array.dtype)
            self._rows.take(held.slots[stored], rows, stored)
        for members, output in held.constants:
            rows[members] = output
        start = chunk * self._chunk
        self.array[start : start + rows.shape[0]] = rows


class _WaitingRows:
    """Rows by slot: the first slots are in memory, the rest in an unlinked scratch file."""

    def __init__(self, outputs: int, dtype: np.dtype[Any], scratch: Path | None) -> None:
        self._row_bytes = max(1, outputs * dtype.itemsize)
        self._in_memory = max(1, WAITING_BYTES // self._row_bytes)
        self._memory = np.empty((self._in_memory, outputs), dtype)
        self._free: Array = np.empty(0, np.int64)
        self._next = 0
        self._scratch = scratch
        self._file: Any = None

    def store(self, rows: Array) -> Array:
        slots = self._new_slots(rows.shape[0])
        memory = slots < self._in_memory
        self._memory[slots[memory]] = rows[memory]
        for slot, row in zip(slots[~memory].tolist(), rows[~memory], strict=True):
            _write_all(self._descriptor(), row.tobytes(), (slot - self._in_memory) * self._row_bytes)
        return slots

    def take(self, slots: Array, rows: Array, at: Array) -> None:
        """Move the rows of `slots` to rows[at], and free the slots."""
        memory = slots < self._in_memory
        rows[at[memory]] = self._memory[slots[memory]]
        for slot, target in zip(slots[~memory].tolist(), at[~memory].tolist(), strict=True):
            content = os.pread(self._descriptor(), self._row_bytes, (slot - self._in_memory) * self._row_bytes)
            rows[target] = np.frombuffer(content, rows.dtype)
        # Slots in memory are used first, so that the file is only for what does not fit.
        self._free = np.sort(np.concatenate([self._free, slots]))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _new_slots(self, count: int) -> Array:
        used, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self._next, self._next + count - used.size)
        self._next += fresh.size
        return np.concatenate([used, fresh])

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._scratch, prefix=".sdnn-rows-")  # noqa: SIM115 - see close
        return int(self._file.fileno())


def _write_all(descriptor: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
