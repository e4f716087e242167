"""How kernels are compiled: one decorator for all of them, so that caching and telling the user live in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a kernel on its first call with each set of types, without the GIL; division by zero gives inf or NaN.

    Parameters
    ----------
    function : callable, optional
        The kernel, where this is written as `@compiled`.
    **options
        What else `numba.njit` takes: `@compiled(fastmath={"contract"})`.

    Returns
    -------
    callable
        The kernel; or, where only options are given, a decorator.
    """
    make = numba.njit(nogil=True, cache=True, error_model="numpy", **options)
    return make if function is None else make(function)
