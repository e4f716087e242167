"""IDX files, the format of MNIST and its kin: a short header, then numbers in big-endian order."""

from __future__ import annotations

import math
import os
from typing import IO, Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.blocks import RawRows, check_size
from dasksdnn.sources.files import naming_faults, open_bytes
from dasksdnn.sources.scratch import Scratch

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_PIECE = 1 << 20


def read_idx_header(file: IO[bytes] | Any, path: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype, shape and header length of an open IDX file.

    Raises
    ------
    InputError
        Where the first bytes are not those of an IDX file.
    """
    with naming_faults(path):
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 8:
            raise InputError(f"{path}: is not an IDX file: it begins with {magic.hex() or 'nothing'}; check the file")
        sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InputError(f"{path}: ends within its header: truncated? Fetch it again")
    return np.dtype(_TYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist()), 4 + len(sizes)


def open_idx(path: str, scratch: str | os.PathLike[str] | None = None) -> RawRows:
    """Open an IDX file of pictures as rows, each picture flattened row by row.

    Parameters
    ----------
    path : str
        Plain, or gzip where the name ends in .gz: then it is decompressed to a scratch file, a piece at a time.
    scratch : path or None
        Where scratch files go.

    Raises
    ------
    InputError
        Where the header and the file's size disagree, or the file holds one number a sample (labels).
    """
    with open_bytes(path) as file:
        dtype, shape, offset = read_idx_header(file, path)
        if len(shape) < 2:
            raise InputError(f"{path}: holds one number a sample: labels? Read it with read_labels")
        flat = (shape[0], math.prod(shape[1:]))
        expected = math.prod(shape) * dtype.itemsize
        if not path.lower().endswith(".gz"):
            check_size(path, offset + expected)
            rows = RawRows(path, offset, dtype, flat)
            rows.picture = shape[1:]
            return rows
        held = Scratch(scratch, "idx")
        plain = held.path / "data"
        with held.filling():
            _unpack(file, plain, path, expected)
            rows = RawRows(str(plain), 0, dtype, flat, name=path, scratch=held)
            rows.picture = shape[1:]
            return rows


def _unpack(file: Any, target: Any, path: str, expected: int) -> None:
    """Write what follows the header; stop at the first byte too many, so that a bomb fills no disk."""
    count = 0
    with open(target, "wb") as out:
        while count <= expected:
            with naming_faults(path):
                piece = file.read(min(_PIECE, expected + 1 - count))
            if not piece:
                break
            count += len(piece)
            out.write(piece)
    _check_count(path, count, expected)


def _check_count(path: str, count: int, expected: int) -> None:
    if count != expected:
        found = f"{count:,} bytes of numbers" if count < expected else "more bytes"
        raise InputError(
            f"{path}: {found} where its header promises {expected:,}: truncated or damaged? Fetch it again"
        )


def read_idx_labels(path: str) -> Array:
    """Read an IDX file of one whole number a sample.

    Raises
    ------
    InputError
        For anything else, or where the header and the file's size disagree.
    """
    with open_bytes(path) as file:
        dtype, shape, offset = read_idx_header(file, path)
        if len(shape) != 1 or dtype.kind == "f":
            raise InputError(f"{path}: holds {dtype.name} numbers of shape {shape}, not one whole number a sample")
        expected = shape[0] * dtype.itemsize
        if not path.lower().endswith(".gz"):
            check_size(path, offset + expected)
        # In pieces: a gzip file's header may promise gigabytes that are not there.
        pieces, count = [], 0
        while count <= expected:
            with naming_faults(path):
                piece = file.read(min(_PIECE, expected + 1 - count))
            if not piece:
                break
            pieces.append(piece)
            count += len(piece)
    _check_count(path, count, expected)
    return np.frombuffer(b"".join(pieces), dtype).astype(np.int64)
