"""Optimizer rules, as kernels apply them to the weights whose gradient they have just computed: each is touched once.

The rules are those of PyTorch: weight decay adds decay * w to the gradient g, unless it is decoupled.

    sgd        w -= lr g
    momentum   m = mu m + g;                            w -= lr m   (nesterov: w -= lr (g + mu m))
    adam       m += (1 - b1) (g - m), v = b2 v + (1 - b2) g^2;   w -= lr m' / (sqrt(v') + eps), bias-corrected
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from dasksdnn.compiling import Call, compiled
from dasksdnn.network import Array


class Rule(Protocol):
    """An optimizer's rule."""

    #: Number of the rule, as the kernels know it.
    code: ClassVar[int]
    #: Names of the moments: arrays beside the weights, zero at the start.
    moments: ClassVar[tuple[str, ...]]

    def coefficients(self, step: int) -> tuple[float, ...]:
        """Eight numbers that the kernel needs for a step, counted from 1; computed here, in double precision."""
        ...


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent.

    Attributes
    ----------
    lr, decay : float
        Learning rate and weight decay.
    """

    lr: float
    decay: float = 0.0
    code: ClassVar[int] = 1
    moments: ClassVar[tuple[str, ...]] = ()

    def coefficients(self, step: int) -> tuple[float, ...]:
        """See `Rule`."""
        return (self.lr, self.decay, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Momentum:
    """Stochastic gradient descent with momentum `mu`, Nesterov's where asked for."""

    lr: float
    mu: float = 0.9
    decay: float = 0.0
    nesterov: bool = False
    code: ClassVar[int] = 2
    moments: ClassVar[tuple[str, ...]] = ("momentum",)

    def coefficients(self, step: int) -> tuple[float, ...]:
        """See `Rule`."""
        return (self.lr, self.decay, self.mu, float(self.nesterov), 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980); `decoupled` weight decay is AdamW (arXiv 1711.05101)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.0
    decoupled: bool = False
    code: ClassVar[int] = 3
    moments: ClassVar[tuple[str, ...]] = ("first", "second")

    def coefficients(self, step: int) -> tuple[float, ...]:
        """See `Rule`; the bias correction is folded into the rate and the scale of the second moment."""
        rate = self.lr / (1 - self.beta1**step)
        scale = 1 / math.sqrt(1 - self.beta2**step)
        coupled, decoupled = (0.0, self.lr * self.decay) if self.decoupled else (self.decay, 0.0)
        return (rate, coupled, decoupled, 1 - self.beta1, self.beta2, 1 - self.beta2, scale, self.eps)


def update(rule: Rule, step: int, values: Array, moments: tuple[Array, ...], gradient: Array) -> None:
    """Apply a rule to values (biases, or weights whose gradient stands in an array).

    Parameters
    ----------
    rule : Rule
    step : int
        Counted from 1.
    values, gradient : arrays of shape (n,), float32 or float64
    moments : tuple of arrays of shape (n,)
        As many as the rule has.
    """
    arrays, numbers = prepared(rule, step, values, moments)
    apply(rule.code, numbers, values, *arrays, 0, gradient, values.size)


def prepared(rule: Rule, step: int, values: Array, moments: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
    """The two moments (empty arrays where a rule has none) and the coefficients, as the kernels take them."""
    if len(moments) != len(rule.moments) or any(m.shape != values.shape or m.dtype != values.dtype for m in moments):
        raise ValueError(
            f"{type(rule).__name__} needs {len(rule.moments)} moments of shape {values.shape}, {values.dtype}"
        )
    none = np.empty(0, values.dtype)
    first, second = (*moments, none, none)[:2]
    return (first, second), np.array(rule.coefficients(step), values.dtype)


@compiled(fastmath={"contract"})
def apply(code, numbers, values, first, second, at, gradient, count):  # type: ignore[no-untyped-def]
    """Apply a rule to values[at : at + count], whose gradient is gradient[:count]."""
    w, g = values[at : at + count], gradient[:count]
    lr, decay = numbers[0], numbers[1]
    if code == 1:
        for e in range(count):
            w[e] -= lr * (g[e] + decay * w[e])
    elif code == 2:
        m, mu, nesterov = first[at : at + count], numbers[2], numbers[3]
        for e in range(count):
            d = g[e] + decay * w[e]
            m[e] = mu * m[e] + d
            w[e] -= lr * (d + mu * m[e] if nesterov else m[e])
    elif code == 3:
        m, v = first[at : at + count], second[at : at + count]
        decoupled, one_b1, b2, one_b2, scale, eps = (
            numbers[2],
            numbers[3],
            numbers[4],
            numbers[5],
            numbers[6],
            numbers[7],
        )
        for e in range(count):
            d = g[e] + decay * w[e]
            m[e] += one_b1 * (d - m[e])
            v[e] = b2 * v[e] + one_b2 * d * d
            w[e] -= decoupled * w[e] + lr * m[e] / (np.sqrt(v[e]) * scale + eps)


def warm_up_calls(dtype: np.dtype[Any]) -> list[Call]:
    """List calls (see `compiling.warm_up`) that need all kernels here, for one dtype."""
    return [partial(update, SGD(0.0), 1, np.zeros(1, dtype), (), np.zeros(1, dtype))]
