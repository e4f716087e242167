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
    name: str, lr: float, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
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

    Raises
    ------
    InputError
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer {name!r}: use one of {', '.join(OPTIMIZERS)}")
    for what, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not (is_real(value) and 0 <= value < math.inf):
            raise InputError(f"{what} is {value!r}: it must be a number from 0 up")
    if not (is_real(momentum) and 0 <= momentum < 1):
        raise InputError(f"momentum is {momentum!r}: it must be from 0 to less than 1")
    if name == "sgd":
        return SGD(float(lr), float(weight_decay))
    if name == "momentum":
        return Momentum(float(lr), float(momentum), float(weight_decay), bool(nesterov))
    return Adam(float(lr), decay=float(weight_decay), decoupled=name == "adamw")


def is_real(value: Any) -> bool:
    """Whether a value is a number, of Python or of NumPy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def with_rate(rule: Rule, lr: float) -> Rule:
    """The same rule at another rate."""
    changed: Any = rule
    made: Rule = replace(changed, lr=lr)
    return made


def clip_factor(norm: float, most: float) -> float:
    """What to multiply a gradient of this norm by, so that its norm is at most `most` (as PyTorch's clip_grad_norm_ does)."""
    return min(1.0, most / (norm + 1e-6))
