"""The datasets that are cut from arrays: in memory, in a raw file, in Zarr, behind a Dask graph.

A dataset gives rows (samples) start to stop when it is asked, and says what that costs in memory. Files are opened
for each read and never mapped: mapped pages count as resident, and an open file does not travel to a worker.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array, canonical_csr
from dasksdnn.sources.checks import check_number_dtype
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line, pydata_to_scipy

#: Bytes of a block where the source does not suggest a size.
BLOCK_BYTES = 16 << 20


@runtime_checkable
class Dataset(Protocol):
    """Samples (rows) by features (columns), read a block at a time.

    Attributes
    ----------
    name : str
        What it is, for messages.
    samples, features : int
        Its shape.
    block : int
        Samples at a time that suit the source, such as the chunk length of a Zarr array.

    Notes
    -----
    A dataset with an attribute `shared` that is true can be pickled, and read by every worker of a cluster: a file, or a
    generator. Others are read by the caller, and sent.
    """

    name: str
    samples: int
    features: int
    block: int

    def read(self, start: int, stop: int) -> Any:
        """Samples start to stop - 1 as ndarray or `csr_array`, of the source's own dtype. Do not write into it."""

    def block_bytes(self, samples: int) -> int:
        """Peak bytes that `read` of that many samples needs, its result included."""

    def close(self) -> None:
        """Give up files; harmless when repeated."""


class _Rows:
    """What all datasets here share: a checked shape, and checks of what is read."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.name = name
        if len(shape) != 2:
            dimensions = f"{len(shape)} dimension{'s' * (len(shape) != 1)}"
            raise InputError(f"{name}: has {dimensions}; a dataset has 2, samples and features: reshape it")
        if shape[1] < 1:
            raise InputError(f"{name}: has shape {tuple(shape)}; a dataset needs at least one feature")
        self.dtype = check_number_dtype(dtype, name)
        self.samples, self.features = int(shape[0]), int(shape[1])
        self.row_bytes = self.features * self.dtype.itemsize
        self.block = max(1, min(self.samples, BLOCK_BYTES // self.row_bytes))

    def check_span(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.samples:
            raise InputError(f"{self.name}: samples {start} to {stop} asked for, of {self.samples}")

    def block_bytes(self, samples: int) -> int:
        return min(samples, self.samples) * self.row_bytes

    def close(self) -> None:
        """Nothing is held open."""


def check_finite(block: Any, name: str, start: int) -> Any:
    """Return `block` (dense, or CSR) unless a value is NaN or infinite; then the sample is named."""
    values = block.data if scipy.sparse.issparse(block) else block
    if values.dtype.kind != "f":
        return block
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):  # no temporary of the block's size
            return block
    wrong = np.flatnonzero(~np.isfinite(values))
    if not wrong.size:
        return block
    place = int(wrong[0])
    row = np.searchsorted(block.indptr, place, "right") - 1 if values is not block else place // block.shape[1]
    raise InputError(f"{name}: sample {start + int(row)} (from 0) has a value that is NaN or infinite; remove it")


class Span:
    """Samples `start` to `stop` of a dataset, numbered from 0.

    Parameters
    ----------
    dataset : Dataset
    start, stop : int
    first : int, optional
        Number of its first sample in whatever the user gave, for messages; by default `start`.
    """

    def __init__(self, dataset: Dataset, start: int, stop: int, first: int | None = None) -> None:
        self._dataset, self._start = dataset, start
        self.first = start if first is None else first
        self.name, self.features = dataset.name, dataset.features
        self.samples, self.block = stop - start, dataset.block

    def read(self, start: int, stop: int) -> Any:
        """See `Dataset`."""
        return self._dataset.read(self._start + start, self._start + stop)

    def block_bytes(self, samples: int) -> int:
        """See `Dataset`."""
        return self._dataset.block_bytes(min(samples, self.samples))

    def close(self) -> None:
        """Leave the dataset open: it is not the span's."""


def shareable(dataset: Dataset) -> Dataset | None:
    """The same samples as a dataset that every worker of a cluster can read; None where only this process can."""
    if isinstance(dataset, DenseRows) and isinstance(dataset.array, np.memmap):
        return _mapped_file(dataset.array, dataset.name)
    return dataset if getattr(dataset, "shared", False) else None


def _mapped_file(array: np.memmap[Any, Any], name: str) -> RawRows | None:
    """The rows of a memory map, read from its file; None where they are not rows of it as they stand."""
    base: Any = array.base
    # A map for copy-on-write may hold changes that the file has not.
    if not isinstance(base, mmap.mmap) or not array.flags.c_contiguous or array.filename is None or array.mode == "c":
        return None
    array.flush()
    return RawRows(os.path.abspath(array.filename), int(array.offset), array.dtype, array.shape, name)


class DenseRows(_Rows):
    """A NumPy array in memory, or a memory map of one."""

    def __init__(self, array: Array, name: str = "array") -> None:
        super().__init__(name, array.shape, array.dtype)
        self.array = array

    def read(self, start: int, stop: int) -> Array:
        """A view; of a memory map a copy, whose pages are given back so that they do not stay resident."""
        self.check_span(start, stop)
        rows = self.array[start:stop]
        if isinstance(rows, np.memmap):
            mapped, rows = rows, np.array(rows)
            pages = getattr(mapped, "_mmap", None)
            # Pages of a private map ("c") may hold the user's changes, which dropping them would lose.
            if pages is not None and mapped.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)
        return np.asarray(check_finite(rows, self.name, start))

    def block_bytes(self, samples: int) -> int:
        """A memory map's pages are resident beside their copy until they are given back."""
        return super().block_bytes(samples) * (2 if isinstance(self.array, np.memmap) else 1)


class SparseRows(_Rows):
    """A SciPy or PyData sparse matrix in memory, as CSR."""

    def __init__(self, matrix: Any, name: str = "sparse array") -> None:
        if not scipy.sparse.issparse(matrix):
            matrix = pydata_to_scipy(matrix, name)
        super().__init__(name, matrix.shape, matrix.dtype)
        self._csr = check_finite(canonical_csr(matrix, name), name, 0)
        self._entry = self.dtype.itemsize + self._csr.indices.itemsize
        mean = max(1, self._csr.data.nbytes * 2 // max(1, self.samples))
        self.block = max(1, min(self.samples, BLOCK_BYTES // mean))

    def read(self, start: int, stop: int) -> Any:
        """A copy of these rows, as CSR."""
        self.check_span(start, stop)
        return self._csr[start:stop]

    def block_bytes(self, samples: int) -> int:
        """Exact for the fullest run of that many samples."""
        n = min(samples, self.samples)
        indptr = self._csr.indptr
        most = int((indptr[n:] - indptr[: len(indptr) - n]).max()) if n else 0
        return int(most * self._entry + (n + 1) * indptr.itemsize)


class RawRows(_Rows):
    """Rows of fixed length in a file, from byte `offset` on: NPY and IDX files.

    `picture` is the shape of a sample before it was flattened, where the file tells.
    """

    picture: tuple[int, ...] = ()

    def __init__(
        self, path: str, offset: int, dtype: Any, shape: tuple[int, ...], name: str = "", scratch: Any = None
    ) -> None:
        super().__init__(name or path, shape, dtype)
        self._path, self._offset, self._scratch = os.path.abspath(path), offset, scratch
        self.shared = scratch is None  # a scratch copy is on this machine only

    def read(self, start: int, stop: int) -> Array:
        """Read these rows, in the machine's own byte order."""
        self.check_span(start, stop)
        rows = np.empty((stop - start, self.features), self.dtype)
        left = rows.reshape(-1).view(np.uint8).data
        with naming_faults(self.name), open(self._path, "rb", buffering=0) as file:
            file.seek(self._offset + start * self.row_bytes)
            while len(left):
                count = file.readinto(left)
                if not count:
                    raise InputError(f"{self.name}: ends within samples {start} to {stop}: truncated? Write it again")
                left = left[count:]
        if not self.dtype.isnative:
            rows = rows.byteswap(inplace=True).view(self.dtype.newbyteorder("="))
        return np.asarray(check_finite(rows, self.name, start))

    def close(self) -> None:
        """Remove the scratch copy, where there is one."""
        if self._scratch is not None:
            self._scratch.close()


def check_size(path: str, expected: int) -> None:
    """Compare a file's size with what its header promises, before anything is allocated."""
    with naming_faults(path):
        size = os.path.getsize(path)
    if size != expected:
        fault = "truncated?" if size < expected else "more follows than its header says."
        raise InputError(f"{path}: {size:,} bytes where its header promises {expected:,}: {fault} Write it again")


def in_memory(array: Any) -> bool:
    """Whether a Zarr array is in the memory of this process, where no worker can reach it."""
    from zarr.storage import MemoryStore

    return isinstance(array.store, MemoryStore)


def on_disk(array: Any) -> Any:
    """A Zarr array on a local disk by its absolute path, so that it can be opened in whatever folder a worker runs; others
    as they are.
    """
    import zarr

    root = getattr(array.store, "root", None)
    if not isinstance(root, Path) or root.is_absolute():
        return array
    store = zarr.storage.LocalStore(root.absolute(), read_only=array.store.read_only)
    return zarr.open_array(store, path=array.path, mode="r" if array.read_only else "r+")


class ZarrRows(_Rows):
    """A 2-d Zarr array, format 2 or 3."""

    def __init__(self, array: Any, name: str = "") -> None:
        super().__init__(name or f"zarr array {array.store_path}", array.shape, array.dtype)
        self._array = on_disk(array)
        self.shared = not in_memory(array)
        self._chunk = [int(n) for n in array.chunks]
        self.block = max(1, min(self.samples, self._chunk[0]))

    def read(self, start: int, stop: int) -> Array:
        """Read these rows."""
        self.check_span(start, stop)
        try:
            rows = np.asarray(self._array[start:stop])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.name}: samples {start} to {stop} cannot be read ({first_line(error)})") from None
        return np.asarray(check_finite(rows, self.name, start))

    def block_bytes(self, samples: int) -> int:
        """The result, and the chunks that Zarr decodes at once, stored and decoded."""
        from zarr import config

        n, (rows, columns) = min(samples, self.samples), self._chunk
        touched = (-(-n // rows) + (n % rows != 0)) * -(-self.features // columns)
        at_once = min(touched, int(config.get("async.concurrency", 10) or touched))
        return n * self.row_bytes + 2 * at_once * rows * columns * self.dtype.itemsize


class DaskRows(_Rows):
    """A 2-d Dask array; only the rows asked for are computed, on the calling thread."""

    def __init__(self, array: Any, name: str = "dask array") -> None:
        if any(n != n for n in array.shape):
            raise InputError(f"{name}: has chunks of unknown size; call compute_chunk_sizes() first")
        super().__init__(name, array.shape, array.dtype)
        self.array = array
        self.block = max(1, *(int(n) for n in array.chunks[0]))

    def read(self, start: int, stop: int) -> Any:
        """Compute these rows; sparse chunks give CSR."""
        self.check_span(start, stop)
        rows = self.array[start:stop].compute(scheduler="synchronous")
        if type(rows).__module__.partition(".")[0] == "sparse":
            rows = pydata_to_scipy(rows, self.name)
        rows = canonical_csr(rows, self.name) if scipy.sparse.issparse(rows) else np.asarray(rows)
        return check_finite(rows, self.name, start)

    def block_bytes(self, samples: int) -> int:
        """The result, and the chunks that it is cut from, as if dense; what else the graph needs is not known here."""
        n = min(samples, self.samples)
        touched = (-(-n // self.block) + 1) * self.block
        return (n + min(touched, self.samples)) * self.row_bytes
