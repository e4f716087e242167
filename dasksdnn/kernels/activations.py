"""Activations that are more than bounds, and the derivatives of all, applied to a block that is still in the cache.

The exponential is computed in plain arithmetic, so that the compiler makes vectors of it: exp(z) = 2^n exp(r) with n the
integer nearest to z / ln 2, |r| <= ln 2 / 2, and exp(r) by its Taylor series, whose rest is below a unit in the last place.
As exp(z) - 1 it keeps its relative precision near zero, so tanh does too. Nothing here may be contracted or
reassociated: a value has the same bits in a vector and in a loop's remainder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload

from dasksdnn.compiling import compiled
from dasksdnn.errors import InputError
from dasksdnn.network import ACTIVATIONS, Activation

#: Numbers of the activations, as the kernels know them.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
_IDENTITY, _RELU, _CLIP, _LEAKY, _SIGMOID, _TANH = (
    CODES[name] for name in ("identity", "relu", "clip", "leaky_relu", "sigmoid", "tanh")
)


def bounds(activation: Activation) -> tuple[float, float]:
    """The lower and upper bound that an activation puts on its argument; infinite where it is more than bounds, or none."""
    low = 0.0 if activation.name in ("relu", "clip") else -np.inf
    return low, activation.parameter if activation.name == "clip" else np.inf


def slopes(activation: Activation) -> tuple[float, float, float]:
    """Between which outputs the derivative is 1 (NaN: no bound there), and what it is elsewhere; for smooth ones, see `derive`.

    Raises
    ------
    InputError
        For a leaky_relu whose output does not tell on which side of zero its argument was.
    """
    low, high = (0.0 if activation.name in ("relu", "clip", "leaky_relu") else np.nan), np.nan
    if activation.name == "clip":
        high = activation.parameter
    if activation.name != "leaky_relu":
        return low, high, 0.0
    if activation.parameter < 0:
        raise InputError(f"activation {activation}: a negative slope has no derivative in its output; use one >= 0")
    return low, high, activation.parameter


def beyond_bounds(activation: Activation) -> int:
    """Code of an activation for `transform`; 0 where bounds are all that it is."""
    code = CODES[activation.name]
    return code if code in (_LEAKY, _SIGMOID, _TANH) else 0


@intrinsic
def _reinterpret(context, value):  # type: ignore[no-untyped-def]
    """Read the bits of a float as an integer of its width, and those of an integer as a float."""
    to = {
        types.float32: types.int32,
        types.float64: types.int64,
        types.int32: types.float32,
        types.int64: types.float64,
    }

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    signature: Any = to[value]
    return signature(value), generate


@compiled
def _expm1_32(z):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    z = z if z > np.float32(-87) else np.float32(-87)
    z = z if z < np.float32(88) else np.float32(88)
    shifted = z * np.float32(1.44269504) + np.float32(12582912)  # 1.5 x 2^23: the last bits hold the nearest integer
    n = shifted - np.float32(12582912)
    r = (z - n * np.float32(0.693145751953125)) - n * np.float32(1.428606765330187e-06)  # ln 2 in two pieces
    p = np.float32(1 / 5040) * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(1 / 2)
    p = (p * r) * r + r
    scale = _reinterpret(np.int32((_reinterpret(shifted) + 127) << 23))
    return scale * p + (scale - one)


@compiled
def _expm1_64(z):  # type: ignore[no-untyped-def]
    z = z if z > -708.0 else -708.0
    z = z if z < 709.0 else 709.0
    shifted = z * 1.4426950408889634 + 6755399441055744.0  # 1.5 x 2^52
    n = shifted - 6755399441055744.0
    r = (z - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    p = 1 / 6227020800 * r + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = (p * r) * r + r
    scale = _reinterpret((_reinterpret(shifted) + 1023) << 52)
    return scale * p + (scale - 1.0)


def _expm1(z: Any) -> Any:
    """exp(z) - 1, for Numba: the version for the type of `z`. Finite for every z, a NaN included."""
    raise TypeError("for compiled code only")


@overload(_expm1)
def _choose_expm1(z):  # type: ignore[no-untyped-def]
    if z == types.float32:
        return lambda z: _expm1_32(z)
    return lambda z: _expm1_64(z)


@compiled
def transform(y, first, last, s, width, code, parameter):  # type: ignore[no-untyped-def]
    """Apply an activation that is more than bounds to y[first : last, s : s + width]; a NaN stays one."""
    zero = parameter - parameter  # constants of the dtype of the panel
    one, two = zero + np.int8(1), zero + np.int8(2)
    lowest = zero - (np.int16(88) if y.itemsize == 4 else np.int16(709))  # below, the sigmoid is zero
    for i in range(first, last):
        out = y[i, s : s + width]  # a row of its own, else the loops do not become vectors
        if code == _LEAKY:
            for t in range(width):
                z = out[t]
                out[t] = parameter * z if z < 0 else z
        elif code == _SIGMOID:
            for t in range(width):
                z = out[t]
                v = one / (two + _expm1(-z))
                out[t] = (v if z > lowest else zero) if z == z else z
        elif code == _TANH:
            for t in range(width):
                z = out[t]
                e = _expm1(-two * (z if z > 0 else -z))
                v = -e / (e + two)
                out[t] = (v if z > 0 else -v) if z == z else z


@compiled
def derive(out, y, rows, first, last, s, width, code):  # type: ignore[no-untyped-def]
    """Multiply rows[first : last] of `out`, columns s to s + width, by f'(z), which follows from y = f(z), where f is smooth."""
    for i in rows[first:last]:
        d, v = out[i, s : s + width], y[i, s : s + width]
        if code == _SIGMOID:
            for t in range(width):
                d[t] = d[t] * (v[t] - v[t] * v[t])
        elif code == _TANH:
            for t in range(width):
                d[t] = d[t] - d[t] * (v[t] * v[t])
