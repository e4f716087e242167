"""The arrays that outputs go to: made here, or given by the user and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.engines.sinks import CHUNK_BYTES, written_together
from dasksdnn.errors import InputError
from dasksdnn.store.reader import Store

#: Chunks that each of many writers has, about; but none is smaller than so many bytes.
CHUNKS, LEAST_BYTES = 4, 1 << 16


def check_out(store: Store, dataset: Any, out: Any) -> None:
    """An array to write to must be able to hold the outputs, and not be what is read."""
    kinds = "a path, a NumPy array, or a Zarr array that is chunked along samples only"
    is_array = isinstance(out, np.ndarray)
    if not is_array and not (hasattr(out, "chunks") and hasattr(out, "store") and hasattr(out, "shape")):
        raise InputError(f"out is {type(out).__name__}: give {kinds}")
    if tuple(out.shape) != (dataset.samples, store.widths[-1]):
        raise InputError(f"out has shape {tuple(out.shape)}, the outputs have ({dataset.samples}, {store.widths[-1]})")
    if not np.can_cast(store.dtype, out.dtype, "same_kind"):
        raise InputError(f"out is of {out.dtype}, which cannot hold outputs of {store.dtype}: make it of {store.dtype}")
    if is_array and not out.flags.writeable:
        raise InputError("out cannot be written: it is read-only; make a copy of it")
    source = getattr(dataset, "array", None)
    if is_array and isinstance(source, np.ndarray) and np.may_share_memory(out, source):
        raise InputError(
            "out and the samples share memory: the outputs would overwrite samples that are still to be read"
        )
    if not is_array and (len(out.chunks) != 2 or int(written_together(out)[1]) < store.widths[-1]):
        raise InputError(f"out is chunked {tuple(out.chunks)}: give {kinds}")


def new_output(path: Path, samples: int, outputs: int, dtype: np.dtype[Any], block: int = 1, writers: int = 1) -> Any:
    """Make the Zarr array of outputs: chunks of about 2 MiB of samples, zstd and a checksum each, that fit with blocks of so
    many samples; smaller ones where so many writers are to have several each.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    row = outputs * dtype.itemsize
    chunk = max(1, min(max(1, samples), 1 << 16, CHUNK_BYTES // row))
    if writers > 1:  # several for each, though not tiny ones
        chunk = min(chunk, max(-(-samples // (CHUNKS * writers)), LEAST_BYTES // row, 1))
    chunk = _fitting(chunk, block)
    return zarr.create_array(
        zarr.storage.LocalStore(path),
        shape=(samples, outputs),
        chunks=(chunk, outputs),
        dtype=dtype,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0,
        dimension_names=("sample", "output"),
    )


def _fitting(chunk: int, block: int) -> int:
    """A size near `chunk`, not above it, of which blocks are made up, or which is made up of blocks."""
    if block <= chunk:
        return chunk // block * block
    # At most half of the wanted size: smaller chunks would cost more than blocks that are read twice.
    return next((n for n in range(chunk, chunk // 2, -1) if block % n == 0), chunk)
