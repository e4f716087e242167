"""Slices of activations on their way from one worker to another: through shared memory where both are on one host.

    worker q   Lent --a place in an unnamed memory file-->      pickled: which file, and where      mapped -->  worker p

Files have no name, so whatever ends the workers leaves nothing of them. A file is used again when nobody knows of its slice
any more, which the scheduler sees to: a result is kept until all that need it are done. Those who borrow keep files mapped, so
that neither side waits for the system to give it pages.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np

from dasksdnn.errors import StoreError
from dasksdnn.network import Array

#: Files of other processes that stay mapped, and free ones of this one.
_MAPPED, _FREE = 64, 16
_TOKEN = 64


class _File:
    """A memory file of this process, and its content."""

    def __init__(self, nbytes: int) -> None:
        self.token = os.urandom(16)
        self.descriptor = os.memfd_create("dasksdnn-slice", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, _TOKEN + nbytes)
            os.pwrite(self.descriptor, self.token, 0)
            mapped = mmap.mmap(self.descriptor, _TOKEN + nbytes)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.content: Array = np.frombuffer(mapped, np.uint8)[_TOKEN:]

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            os.close(self.descriptor)


_free: list[_File] = []
_lock = Lock()


def _take(nbytes: int) -> _File:
    with _lock:
        fitting = [f for f in _free if nbytes <= f.content.size <= 2 * nbytes]
        if fitting:
            chosen = min(fitting, key=lambda f: int(f.content.size))
            _free.remove(chosen)
            return chosen
    return _File(nbytes)


def release() -> None:
    """Give free files, and those of other processes, back to the system."""
    with _lock:
        _free.clear()
        _mapped.clear()


class Lent:
    """An array of one dimension in memory that other processes of this host can read.

    Attributes
    ----------
    values : array
        To be filled.
    """

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._file = _take(size * dtype.itemsize)
        self.values: Array = self._file.content[: size * dtype.itemsize].view(dtype)

    def __sizeof__(self) -> int:
        return int(self.values.nbytes) + 200

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            with _lock:
                _free.append(self._file)
                if len(_free) > _FREE:
                    del _free[0]

    def __reduce__(self) -> Any:
        file = self._file
        where = (os.getpid(), file.descriptor, file.token, int(file.content.size))
        return borrow, (*where, self.values.dtype.str, int(self.values.size))


_mapped: OrderedDict[bytes, Array] = OrderedDict()


def borrow(process: int, descriptor: int, token: bytes, nbytes: int, dtype: str, size: int) -> Array:
    """Map a slice of another process; not to be written.

    Raises
    ------
    StoreError
        It cannot be read from here: the processes do not share a host, or the lender has gone.
    """
    with _lock:
        content = _mapped.get(token)
        if content is None:
            content = _mapped[token] = _map(process, descriptor, token, nbytes)
            if len(_mapped) > _MAPPED:
                _mapped.popitem(last=False)
        else:
            _mapped.move_to_end(token)
    kind = np.dtype(dtype)
    return content[: size * kind.itemsize].view(kind)


def _map(process: int, descriptor: int, token: bytes, nbytes: int) -> Array:
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"a slice in another worker's memory cannot be read ({path}: {error.strerror})") from error
    try:
        if os.pread(opened, len(token), 0) != token:
            raise StoreError(f"a slice in another worker's memory cannot be read: {path} is something else")
        mapped = mmap.mmap(opened, _TOKEN + nbytes, prot=mmap.PROT_READ)
    finally:
        os.close(opened)
    content: Array = np.frombuffer(mapped, np.uint8)[_TOKEN:]
    return content
