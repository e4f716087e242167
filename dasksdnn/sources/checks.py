"""Small checks that every source shares, so that a wrong argument is worded the same way everywhere."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksdnn.errors import InputError


def whole_number(value: Any, name: str, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`, else an `InputError` that names the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name}: {value!r} is not a whole number") from None
    if number < minimum:
        raise InputError(f"{name}: {number} is too small; it must be at least {minimum}")
    return number


def real_number(value: Any, name: str) -> float:
    """`value` as a finite float, else an `InputError` that names the argument."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: {value!r} is not a number") from None
    if not np.isfinite(number):
        raise InputError(f"{name}: {number} is not a finite number")
    return number


def float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype of a network: float32 or float64, else an `InputError`."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise InputError(f"dtype {dtype!r} is unknown; use float32 or float64") from None
    if found not in (np.float32, np.float64):
        raise InputError(f"dtype {found} is not float32 or float64")
    return found


def check_number_dtype(dtype: npt.DTypeLike, name: str) -> np.dtype[Any]:
    """Refuse what does not fit a real float64: objects, complex numbers, text, records, longdouble."""
    found = np.dtype(dtype)
    if found.kind not in "biuf" or found.itemsize > 8:
        raise InputError(f"{name}: values of dtype {found} are not usable; convert them to float32 or float64")
    return found
