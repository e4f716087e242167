"""One-dimensional arrays in Zarr v3: how they are encoded, digested, and read back with every chunk checked.

Each array is one shard of inner chunks of `CHUNK` elements. The digest of a chunk is the CRC-32 of its decoded
little-endian bytes; digests are listed by position, so a chunk that stands in another's place is found. The array's
metadata has a digest too, so that nothing is decoded in another way than it was encoded.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from dasksdnn.errors import CorruptStoreError
from dasksdnn.network import Array
from dasksdnn.store.layout import CHUNK
from dasksdnn.store.objects import object_size, read_metadata

#: Inner chunks that one read decodes at once: enough to keep Zarr's overhead small, few enough to stay small in memory.
PIECE = 4
#: Dtypes that a store may hold: anything else in a manifest is refused before it is used.
DTYPES = ("uint16", "uint32", "int16", "int32", "int64", "float32", "float64")
#: No array of a window is longer than this; a manifest that says so is refused before anything is allocated.
LONGEST = 1 << 40


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """What the manifest knows of an array."""

    shape: tuple[int, ...]
    dtype: str
    #: CRC-32 of the array's metadata (zarr.json) in its canonical spelling.
    metadata: int
    #: CRC-32 of each chunk, by position.
    digests: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Digests as hexadecimal strings, eight digits each."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "metadata": f"{self.metadata:08x}",
            "digests": "".join(f"{d:08x}" for d in self.digests),
        }

    @classmethod
    def from_json(cls, record: Any) -> ArrayEntry:
        """Read and check a manifest's record; raises ValueError (or KeyError, TypeError) for one that is malformed."""
        shape, dtype = tuple(record["shape"]), record["dtype"]
        if dtype not in DTYPES or len(shape) not in (1, 2) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"array of shape {shape}, dtype {dtype}")
        if prod(shape) >= LONGEST:
            raise ValueError(f"array of shape {shape}, which is more than {LONGEST} elements")
        metadata, digests = _parse_digests(record["metadata"]), _parse_digests(record["digests"])
        if len(metadata) != 1 or len(digests) != -(-prod(shape) // CHUNK):
            raise ValueError(f"{len(digests)} digests for shape {shape}")
        return cls(shape, dtype, metadata[0], digests)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return self.size * np.dtype(self.dtype).itemsize


def _parse_digests(text: str) -> tuple[int, ...]:
    raw = bytes.fromhex(text)
    if 2 * len(raw) != len(text) or len(raw) % 4:
        raise ValueError("digests are not of eight hexadecimal digits each")
    return tuple(np.frombuffer(raw, ">u4").tolist())


def digest(values: Array) -> int:
    """CRC-32 of the little-endian bytes of `values`."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return zlib.crc32(little.reshape(-1).view(np.uint8).data)


def digests(values: Array) -> tuple[int, ...]:
    """The digest of each chunk of `CHUNK` elements."""
    flat = values.reshape(-1)
    return tuple(digest(flat[i : i + CHUNK]) for i in range(0, flat.size, CHUNK))


def canonical_json(record: Any) -> bytes:
    """A JSON value in one canonical spelling: sorted keys, no spaces, ASCII."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_array(store: Any, path: str, values: Array) -> ArrayEntry:
    """Write an array as one shard and return what the manifest must know of it."""
    flat = np.ascontiguousarray(values).reshape(-1)
    chunk, shard = _chunks(flat.size)
    array = zarr.create_array(
        store,
        name=path,
        shape=flat.shape,
        chunks=chunk,
        shards=shard,
        dtype=flat.dtype,
        compressors=[*_compressor(flat), Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if flat.size:
        array[:] = flat
    metadata = zlib.crc32(canonical_json(read_metadata(store, path)))
    return ArrayEntry(values.shape, flat.dtype.name, metadata, digests(flat))


def _chunks(size: int) -> tuple[tuple[int], tuple[int]]:
    """Lengths of the inner chunks and of the one shard of an array."""
    chunk = min(CHUNK, max(1, size))
    return (chunk,), (-(-max(1, size) // chunk) * chunk,)


def _compressor(flat: Array) -> list[Any]:
    """The zstd codec where it saves a quarter of a sample chunk, else none: random float32 values hardly shrink."""
    middle = flat.size // 2
    sample = flat[max(0, middle - 8192) : middle + 8192].tobytes()
    saved = len(sample) - len(zlib.compress(sample, 1))
    return [ZstdCodec(level=1)] if saved * 4 > len(sample) else []


class _Read:
    """Bytes of stored arrays that this process has read so far, as they are in memory; many threads read."""

    def __init__(self) -> None:
        self._lock, self.nbytes = Lock(), 0

    def add(self, nbytes: int) -> None:
        with self._lock:
            self.nbytes += nbytes


_READ = _Read()


def bytes_read() -> int:
    """Bytes of stored arrays that this process has read so far, as they are in memory."""
    return _READ.nbytes


class CheckedArray:
    """An array of a store, read in ranges; every chunk that is touched is compared with its digest.

    Parameters
    ----------
    store : zarr store
    path : str
    entry : ArrayEntry
        From the manifest: it, not the array's own metadata, says what must be there.
    label : str
        How errors name the array.
    """

    def __init__(self, store: Any, path: str, entry: ArrayEntry, label: str) -> None:
        self.entry = entry
        self.label = label
        try:
            metadata = read_metadata(store, path)
            if zlib.crc32(canonical_json(metadata)) != entry.metadata:
                raise ValueError("it does not match its digest in the manifest")
            array = zarr.Array.from_dict(zarr.storage.StorePath(store, path), metadata)
            # The digests are by these chunks; any others could also ask for memory without bounds.
            if (array.chunks, array.shards) != _chunks(entry.size):
                raise ValueError(f"chunks {array.chunks} in shards {array.shards}")
            if array.shape != (entry.size,) or array.dtype.name != entry.dtype:
                raise ValueError(f"shape {array.shape}, dtype {array.dtype}, not {(entry.size,)}, {entry.dtype}")
        except Exception as error:
            raise corrupt(label, f"its metadata cannot be used ({brief(error)})") from error
        # Zarr would read a missing or empty object as zeros.
        if entry.size and not object_size(store, f"{path}/{array.metadata.encode_chunk_key((0,))}"):
            raise corrupt(label, "the object that holds its chunks is missing or empty")
        self._array = array

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Elements `start` to `stop`, as a new flat array."""
        stop = self.entry.size if stop is None else stop
        out: Array = np.empty(stop - start, self.entry.dtype)
        for at, piece in self.pieces(start, stop):
            out[at - start : at - start + piece.size] = piece
        return out

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Consecutive pieces (position, values) that make up elements `start` to `stop`, a few chunks at a time."""
        step = CHUNK * PIECE
        for low in range(start // CHUNK * CHUNK, stop, step):
            high = min(low + step, self.entry.size, -(-stop // CHUNK) * CHUNK)
            values = self._decode(low, high)
            self._check(low, values)
            first, last = max(start, low), min(stop, high)
            yield first, values[first - low : last - low]

    def _decode(self, low: int, high: int) -> Array:
        try:
            values = np.asarray(self._array[low:high], self.entry.dtype)
            _READ.add(values.nbytes)
            return values
        except MemoryError:
            raise
        except Exception as error:
            raise corrupt(self.label, f"elements {low} to {high} cannot be read ({brief(error)})") from error

    def _check(self, low: int, values: Array) -> None:
        for i in range(0, values.size, CHUNK):
            position = (low + i) // CHUNK
            if digest(values[i : i + CHUNK]) != self.entry.digests[position]:
                raise corrupt(self.label, f"chunk {position} does not match its digest in the manifest")


def corrupt(label: str, what: str) -> CorruptStoreError:
    """Make the error for a damaged array."""
    return CorruptStoreError(
        f"{label}: {what}; run 'dasksdnn verify' to see all that is damaged, and restore or rebuild the store"
    )


def brief(error: BaseException) -> str:
    """One line of an exception of another library."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
