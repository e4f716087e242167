"""How to train: all that decides the result, checked, so that a checkpoint can tell whether it is of the same run."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.kernels.update import Rule
from dasksdnn.training.initial import SCHEMES
from dasksdnn.training.losses import LOSSES, Loss
from dasksdnn.training.optimizers import is_real, make_rule
from dasksdnn.training.schedules import Schedule

#: How patterns change.
METHODS = ("magnitude", "set", "rigl")

_EVERY = re.compile(r"(\d+)\s*(epochs?|steps?|min|minutes?|s|seconds?)?")


@dataclass(frozen=True, slots=True)
class Options:
    """What decides the result of training.

    Attributes
    ----------
    epochs, batch_size, seed : int
    loss, optimizer : str
        Names in `losses.LOSSES`, and of `optimizers.make_rule`.
    lr, momentum, weight_decay, dropout : float
    nesterov : bool
    clip_norm : float or None
        The gradient's norm is at most this.
    schedule : str
        "constant", "step" or "cosine".
    warmup : int
        Steps in which the rate rises.
    patience : int or None
        Training ends after so many epochs without a lower loss (of validation, where there is one).
    shuffle_buffer : int or None
        Samples that are shuffled together.
    init : str or None
        "he" or "glorot": weights are drawn anew first.
    evolve : str or None
        "magnitude", "set" or "rigl": how the pattern changes between epochs (see `training.rewriting.evolve`).
    evolve_every : int
        Epochs from one change to the next; none after three quarters of the epochs.
    drop : float
        Share of each row's weights that "set" and "rigl" replace at first; it falls along a cosine.
    target_density : float or None
        What "magnitude" prunes each layer but the last to.
    new_communication : bool
        Edges may grow where a part has to receive what it did not before.
    """

    epochs: int = 5
    batch_size: int = 64
    loss: str = "softmax"
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    dropout: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    seed: int = 0
    shuffle_buffer: int | None = None
    init: str | None = None
    evolve: str | None = None
    evolve_every: int = 1
    drop: float = 0.3
    target_density: float | None = None
    new_communication: bool = True

    def __post_init__(self) -> None:
        whole = {"epochs": 1, "batch_size": 1, "seed": 0, "patience": 1, "shuffle_buffer": 1, "evolve_every": 1}
        for name, least in whole.items():
            value = getattr(self, name)
            if value is None and name in ("patience", "shuffle_buffer"):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise InputError(f"{name} is {value!r}: it must be a whole number from {least} up")
        if self.loss not in tuple(LOSSES):
            raise InputError(f"loss {self.loss!r}: use one of {', '.join(LOSSES)}")
        if not (is_real(self.dropout) and 0 <= self.dropout < 1):
            raise InputError(f"dropout is {self.dropout!r}: it must be from 0 to less than 1")
        if self.clip_norm is not None and not (is_real(self.clip_norm) and 0 < self.clip_norm < math.inf):
            raise InputError(f"clip_norm is {self.clip_norm!r}: it must be positive, or left out")
        if not isinstance(self.nesterov, bool | np.bool_):
            raise InputError(f"nesterov is {self.nesterov!r}: it must be True or False")
        self._check_evolution()
        self.rule()
        self._plain()
        self.rates()

    def _check_evolution(self) -> None:
        if self.init is not None and self.init not in SCHEMES:
            raise InputError(f"init {self.init!r}: use one of {', '.join(SCHEMES)}, or leave the weights as they are")
        if self.evolve is not None and self.evolve not in METHODS:
            raise InputError(f"evolve {self.evolve!r}: use one of {', '.join(METHODS)}")
        if not (is_real(self.drop) and 0 < self.drop < 1):
            raise InputError(f"drop is {self.drop!r}: it must be a share between 0 and 1")
        if (self.evolve == "magnitude") != (self.target_density is not None):
            raise InputError("target_density goes with evolve 'magnitude', and with that alone: give both, or neither")
        if self.target_density is not None and not (is_real(self.target_density) and 0 < self.target_density <= 1):
            raise InputError(f"target_density is {self.target_density!r}: it must be a share from 0 to 1")

    @property
    def last_change(self) -> int:
        """Epochs behind which the pattern does not change any more."""
        return self.epochs * 3 // 4

    def changes_after(self, epoch: int) -> bool:
        """Whether the pattern changes after so many epochs."""
        return self.evolve is not None and 0 < epoch <= self.last_change and epoch % self.evolve_every == 0

    def _plain(self) -> None:
        """Make NumPy's numbers Python's, which JSON can keep."""
        kinds: Any = ((bool | np.bool_, bool), (Integral, int), (Real, float))
        for name, value in asdict(self).items():
            plain = next((plain for kind, plain in kinds if isinstance(value, kind)), None)
            if plain is not None:
                object.__setattr__(self, name, plain(value))

    def rule(self) -> Rule:
        """The optimizer's rule at the full rate."""
        return make_rule(
            self.optimizer,
            self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )

    def rates(self) -> Schedule:
        """The learning rate's schedule."""
        return Schedule(self.schedule, warmup=self.warmup)

    def loss_function(self) -> Loss:
        """The loss."""
        chosen: Loss = LOSSES[self.loss]
        return chosen

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def check_same(self, record: dict[str, Any], place: str) -> None:
        """Refuse to go on from a checkpoint of other options; only the number of epochs may be another, where no rate depends on it.

        Raises
        ------
        InputError
            Names the first option that differs.
        """
        theirs = {**asdict(Options()), **record}
        same = replace(self, epochs=theirs["epochs"]) if self.schedule != "cosine" and not self.evolve else self
        for name, value in asdict(same).items():
            if theirs[name] != value:
                raise InputError(
                    f"{place}: its checkpoint was trained with {name} {theirs[name]!r}, not {value!r}: "
                    "say the same to resume, or train without resume to begin anew"
                )


@dataclass(frozen=True, slots=True)
class Every:
    """How often something happens: after so many epochs, steps or seconds."""

    count: int
    unit: str = "epochs"

    @classmethod
    def parse(cls, text: str | int) -> Every:
        """Read 2, "2 epochs", "500 steps", "10 min" and the like.

        Raises
        ------
        InputError
        """
        found = _EVERY.fullmatch(str(text).strip())
        if not found or int(found[1]) < 1:
            raise InputError(f"checkpoint-every {text!r}: write it as 2, '2 epochs', '500 steps' or '10 min'")
        unit = (found[2] or "epochs")[:3]
        count = int(found[1]) * (60 if unit == "min" else 1)
        return cls(count, {"epo": "epochs", "ste": "steps"}.get(unit, "seconds"))


def key_of(seed: int, step: int) -> int:
    """Of what a step draws."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "little")
