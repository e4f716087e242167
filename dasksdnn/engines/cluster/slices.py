"""Slices of activations on their way from one worker to another: through shared memory where both are on one host.

    worker q   Lent(values) --in an unnamed memory file-->        pickled: where the file is      read -->  worker p

The file has no name, so whatever ends the workers leaves nothing of it. It belongs to whoever lends it, and lives as long as
the slice that the scheduler knows of: until all that need it are done.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dasksdnn.errors import StoreError
from dasksdnn.network import Array

#: Smaller slices are sent: a file would cost more than it saves.
LEAST = 1 << 14


class Lent:
    """An array of one dimension in a memory file that other processes of this host can read.

    Parameters
    ----------
    values : array
    """

    def __init__(self, values: Array) -> None:
        self.dtype, self.size = values.dtype, int(values.size)
        self._token = os.urandom(16)
        self._file = os.memfd_create("dasksdnn-slice", os.MFD_CLOEXEC)
        view = memoryview(values).cast("B")
        at = os.pwrite(self._file, self._token, 0)
        while view:
            count = os.pwrite(self._file, view, at)
            view, at = view[count:], at + count

    def __sizeof__(self) -> int:
        return self.size * self.dtype.itemsize + 200

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def __reduce__(self) -> Any:
        return borrow, (os.getpid(), self._file, self._token, self.dtype.str, self.size)

    def read(self) -> Array:
        """The values."""
        return _read(self._file, self.dtype, self.size)


class Borrowed:
    """A slice that another process of this host holds."""

    def __init__(self, file: int, dtype: np.dtype[Any], size: int) -> None:
        self.dtype, self.size, self._file = dtype, size, file

    def __sizeof__(self) -> int:
        return 200

    def __del__(self) -> None:
        os.close(self._file)

    def __reduce__(self) -> Any:
        return np.asarray, (self.read(),)

    def read(self) -> Array:
        """The values."""
        return _read(self._file, self.dtype, self.size)


def borrow(process: int, file: int, token: bytes, dtype: str, size: int) -> Borrowed:
    """Open a slice of another process.

    Raises
    ------
    StoreError
        It cannot be read from here: the processes do not share a host, or the lender has gone.
    """
    path = f"/proc/{process}/fd/{file}"
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"a slice in another worker's memory cannot be read ({path}: {error.strerror})") from error
    if os.pread(opened, len(token), 0) != token:
        os.close(opened)
        raise StoreError(f"a slice in another worker's memory cannot be read: {path} is something else")
    return Borrowed(opened, np.dtype(dtype), size)


def _read(file: int, dtype: np.dtype[Any], size: int) -> Array:
    values: Array = np.empty(size, dtype)
    view, at = memoryview(values).cast("B"), 16
    while view:
        count = os.preadv(file, [view], at)
        if not count:
            raise StoreError("a slice in another worker's memory ends early")
        view, at = view[count:], at + count
    return values


def values_of(piece: Any) -> Array:
    """The values of a slice, however it came."""
    values: Array = piece.read() if isinstance(piece, Lent | Borrowed) else piece
    return values
