"""MPI's non-blocking calls, and the clock, for compiled code: a message costs what MPI takes for it, and no Python.

The functions are found by name in whatever MPI library the process has loaded (`bind`), so kernels that call them are
compiled once for every MPI. Handles are passed as numbers: four bytes in MPICH, eight in Open MPI, in a register either way.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm
from numba import types

from dasksdnn.compiling import compiled

_INT, _HANDLE, _PLACE = types.int32, types.intp, types.voidptr
_MESSAGE = types.int32(_PLACE, _INT, _HANDLE, _INT, _INT, _HANDLE, _PLACE)
_isend = types.ExternalFunction("sdnn_mpi_isend", _MESSAGE)
_irecv = types.ExternalFunction("sdnn_mpi_irecv", _MESSAGE)
_waitall = types.ExternalFunction("sdnn_mpi_waitall", types.int32(_INT, _PLACE, _PLACE))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(_INT, _PLACE))
_MONOTONIC = 1


def bind(library: Any) -> None:
    """Let compiled code call an MPI library, before any kernel here is called.

    Parameters
    ----------
    library : ctypes.CDLL
        Of the library, or of something that has loaded it.

    Raises
    ------
    AttributeError
        It has no such functions.
    """
    for name in ("Isend", "Irecv", "Waitall"):
        address = ctypes.cast(getattr(library, f"MPI_{name}"), ctypes.c_void_p).value
        llvm.add_symbol(f"sdnn_mpi_{name.lower()}", address)


# MPI's errors end the process (MPI_ERRORS_ARE_FATAL), so what the calls return need not be looked at.


@compiled
def post_send(values, rank, communicator, datatype, request):  # type: ignore[no-untyped-def]
    """Begin to send a contiguous array, which stays as it is until `wait_all` of the request (bytes)."""
    _isend(values.ctypes, values.size, datatype, rank, 0, communicator, request.ctypes)


@compiled
def post_receive(values, rank, communicator, datatype, request):  # type: ignore[no-untyped-def]
    """Begin to receive into a contiguous array the next message of a rank, which has to be of its size."""
    _irecv(values.ctypes, values.size, datatype, rank, 0, communicator, request.ctypes)


@compiled
def wait_all(count, requests, statuses):  # type: ignore[no-untyped-def]
    """Wait for so many requests, which lie end to end."""
    if count > 0:
        _waitall(count, requests.ctypes, statuses.ctypes)


@compiled
def clock(place):  # type: ignore[no-untyped-def]
    """Nanoseconds of a clock that only rises; `place` is room for two int64."""
    _clock_gettime(_MONOTONIC, place.ctypes)
    return place[0] * 1_000_000_000 + place[1]
