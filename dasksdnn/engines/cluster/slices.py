"""Slices of activations on their way from one worker to another: through shared memory where both are on one host.

    worker q   Lent --a place in an unnamed memory file-->      pickled: which file, and where      mapped -->  worker p

    file:   token | turn | users | ... values ...

Files have no name, so whatever ends the workers leaves nothing of them. A file is used again, for another turn, when its slice
is not known here any more and nobody uses it: the scheduler may forget the lender's copy while a borrower has its own, so
borrowers count themselves in. Those who borrow keep files mapped, so that neither side waits for the system to give it pages.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np

from dasksdnn.errors import ClusterError
from dasksdnn.kernels.ring import count
from dasksdnn.network import Array

#: Files of other processes that stay mapped, and free ones of this one.
_MAPPED, _FREE = 64, 16
#: Bytes before the values; where among them, as int64, the turn and the users are counted.
_HEAD, _TURN, _USERS = 64, 4, 5


class SliceLostError(ClusterError):
    """A slice is not where it should be: its batch has to be run again."""


class _File:
    """A memory file of this process, and its content."""

    def __init__(self, nbytes: int) -> None:
        self.token = os.urandom(16)
        self.descriptor = os.memfd_create("dasksdnn-slice", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, _HEAD + nbytes)
            os.pwrite(self.descriptor, self.token, 0)
            mapped: Array = np.frombuffer(mmap.mmap(self.descriptor, _HEAD + nbytes), np.uint8)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.counts: Array = mapped[:_HEAD].view(np.int64)
        self.content: Array = mapped[_HEAD:]

    def next_turn(self) -> bool:
        """Begin another turn; False where somebody still uses the last one."""
        # The turn first: who comes between these lines sees that it is not theirs, or is seen here.
        count(self.counts, _TURN, 1)
        return int(count(self.counts, _USERS, 0)) == 0

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            os.close(self.descriptor)


_free: list[_File] = []
_lock = Lock()


def _take(nbytes: int) -> _File:
    with _lock:
        fitting = [f for f in _free if nbytes <= f.content.size <= 2 * nbytes]
        for chosen in sorted(fitting, key=lambda f: int(f.content.size)):
            if chosen.next_turn():
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
        self._turn = int(self._file.counts[_TURN])
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
        return borrow, (*where, self._turn, self.values.dtype.str, int(self.values.size))


class Borrowed:
    """A slice of another process, which keeps its file as it is while this object lives.

    Attributes
    ----------
    values : array
        Not to be written.
    """

    def __init__(self, mapped: Array, turn: int, dtype: np.dtype[Any], size: int) -> None:
        self._counts: Array = mapped[:_HEAD].view(np.int64)
        count(self._counts, _USERS, 1)
        if int(count(self._counts, _TURN, 0)) != turn:
            raise SliceLostError("a slice in another worker's memory is not there any more")
        self.values: Array = mapped[_HEAD : _HEAD + size * dtype.itemsize].view(dtype)

    def __sizeof__(self) -> int:
        return 200

    def __del__(self) -> None:
        if hasattr(self, "_counts"):
            count(self._counts, _USERS, -1)

    def __reduce__(self) -> Any:
        return np.asarray, (self.values,)


_mapped: OrderedDict[bytes, Array] = OrderedDict()


def borrow(process: int, descriptor: int, token: bytes, nbytes: int, turn: int, dtype: str, size: int) -> Borrowed:
    """Map a slice of another process.

    Raises
    ------
    SliceLostError
        It cannot be read from here: the processes do not share a host, or the lender has gone, or has forgotten it.
    """
    with _lock:
        content = _mapped.get(token)
        if content is None:
            content = _mapped[token] = _map(process, descriptor, token, nbytes)
            if len(_mapped) > _MAPPED:
                _mapped.popitem(last=False)
        else:
            _mapped.move_to_end(token)
    return Borrowed(content, turn, np.dtype(dtype), size)


def _map(process: int, descriptor: int, token: bytes, nbytes: int) -> Array:
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SliceLostError(f"a slice in another worker's memory cannot be read ({path}: {error.strerror})") from error
    try:
        if os.pread(opened, len(token), 0) != token:
            raise SliceLostError(f"a slice in another worker's memory cannot be read: {path} is something else")
        mapped: Array = np.frombuffer(mmap.mmap(opened, _HEAD + nbytes), np.uint8)
    finally:
        os.close(opened)
    return mapped
