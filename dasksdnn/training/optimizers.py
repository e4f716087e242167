"""Optimizers by name: the kernels' rules, with arguments that are checked."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real
from typing import Any

from dasksdnn.errors import InputError
from dasksdnn.kernels.update import SGD, Adam, Momentum, Rule

#: Optimizers, by name.
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


def make_rule(
    name: str,
    lr: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Rule:
    """Make a rule.

    Parameters
    ----------
    name : {"sgd", "momentum", "adam", "adamw"}
        "adamw" is Adam with decoupled weight decay.
    lr, weight_decay : float
        From 0 up.
    momentum : float
        Of "momentum", from 0 to less than 1.
    nesterov : bool
        Of "momentum".
    beta1, beta2 : float
        Of Adam, from 0 to less than 1.
    eps : float
        Of Adam, positive.

    Raises
    ------
    InputError
        Naming the argument.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer {name!r}: use one of {', '.join(OPTIMIZERS)}")
    for what, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not (is_real(value) and 0 <= value < math.inf):
            raise InputError(f"{what} is {value!r}: it must be a number from 0 up")
    for what, value in (("momentum", momentum), ("beta1", beta1), ("beta2", beta2)):
        if not (is_real(value) and 0 <= value < 1):
            raise InputError(f"{what} is {value!r}: it must be from 0 to less than 1")
    if not (is_real(eps) and 0 < eps < math.inf):
        raise InputError(f"eps is {eps!r}: it must be positive")
    if name == "sgd":
        return SGD(float(lr), float(weight_decay))
    if name == "momentum":
        return Momentum(float(lr), float(momentum), float(weight_decay), bool(nesterov))
    return Adam(float(lr), float(beta1), float(beta2), float(eps), float(weight_decay), decoupled=name == "adamw")


def is_real(value: Any) -> bool:
    """Whether a value is a number, of Python or of NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def with_rate(rule: Rule, lr: float) -> Rule:
    """The same rule at another rate."""
    changed: Any = rule
    made: Rule = replace(changed, lr=lr)
    return made


def clip_factor(norm: float, most: float) -> float:
    """What to multiply a gradient of this norm by, so that its norm is at most `most` (as PyTorch's clip_grad_norm_ does).

    Raises
    ------
    FloatingPointError
        The norm is NaN or infinite: no factor makes such a gradient usable, and min(1, NaN) would let it through.
    """
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    return min(1.0, most / (norm + 1e-6))
