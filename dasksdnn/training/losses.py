"""Losses of a panel of outputs: their value, and the derivative by the last layer's sums that backprop begins with.

Panels are (neurons, width), samples are columns; columns behind the samples are padding, and get a delta of zero. Values
follow PyTorch's: cross-entropy of class numbers, mean squared error, binary cross-entropy. Sums are in double precision,
panels in the outputs' own. Outputs that are not finite warn of nothing: they give a loss that is not finite either.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.kernels.activations import slopes
from dasksdnn.kernels.panels import gather_targets, squared_error
from dasksdnn.network import Activation, Array

_IDENTITY = Activation("identity")


class Loss(Protocol):
    """What training minimises, the mean over a batch of each sample's loss."""

    def check(self, activation: Activation, outputs: int) -> None:
        """Raise InputError where the last layer's activation, or its width, cannot go with the loss."""

    def value(self, y: Array, count: int, targets: Array, rows: Array, activation: Activation) -> tuple[float, int]:
        """Sum of the losses of the first `count` samples, and how many of them are right; see `value_and_delta`."""

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """Write `weight` times the derivative by the last layer's sums.

        Parameters
        ----------
        y : array of shape (outputs, width)
            Outputs f(z); row i is of neuron rows[i].
        count : int
            Samples: the first columns.
        targets : array
            Classes (count,), or values (count, outputs) in the order of the neurons.
        rows : int array of shape (outputs,)
        activation : Activation
            Of the last layer.
        delta : array like y
            Written: zero behind the samples.
        weight : float
            One over the number of samples of a batch, for its mean.

        Returns
        -------
        (float, int)
            Sum of the losses in double precision, and samples that are right.
        """


class Softmax:
    """Cross-entropy of the softmax of the outputs; targets are classes from 0 up."""

    def check(self, activation: Activation, outputs: int) -> None:
        """See `Loss`."""
        if outputs < 2:
            raise InputError(f"loss softmax needs at least 2 outputs, the network has {outputs}: use bce or mse")
        slopes(activation)

    def value(self, y: Array, count: int, targets: Array, rows: Array, activation: Activation) -> tuple[float, int]:
        """See `Loss`."""
        loss, correct, _, _ = self._parts(y[:, :count], targets, rows)
        return loss, correct

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """See `Loss`."""
        loss, correct, share, place = self._parts(y[:, :count], targets, rows)
        share[place, np.arange(count)] -= 1
        _finish(share, y[:, :count], activation, delta, weight)
        return loss, correct

    @staticmethod
    def _parts(y: Array, targets: Array, rows: Array) -> tuple[float, int, Array, Array]:
        """Loss, hits, softmax, and the panel's row of each sample's class."""
        position = np.empty(rows.size, np.int64)
        position[rows] = np.arange(rows.size)
        place, samples = position[targets], np.arange(y.shape[1])
        with _quiet():
            share = y - y.max(axis=0)
            own = share[place, samples]
            # Of several largest outputs the first neuron's counts, whatever the order of the panel.
            before = ((share == 0) & (rows[:, None] < targets)).any(axis=0)
            correct = int(((own == 0) & ~before).sum())
            np.exp(share, out=share)
            total = share.sum(axis=0, dtype=np.float64)
            share /= total.astype(share.dtype)
            return float((np.log(total) - own).sum()), correct, share, place


class SquaredError:
    """The mean over the outputs of squared differences."""

    def check(self, activation: Activation, outputs: int) -> None:
        """See `Loss`."""
        slopes(activation)

    def value(self, y: Array, count: int, targets: Array, rows: Array, activation: Activation) -> tuple[float, int]:
        """See `Loss`."""
        return float(squared_error(y, targets, rows, y.dtype.type(0), np.empty_like(y))) / rows.size, 0

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """See `Loss`."""
        delta[:, count:] = 0
        squares = squared_error(y, targets, rows, y.dtype.type(weight * 2 / rows.size), delta)
        with _quiet():
            _derive(delta[:, :count], y[:, :count], activation, None)
        return float(squares) / rows.size, 0


class BinaryCrossEntropy:
    """The mean over the outputs of -t log p - (1 - t) log(1 - p); p is the sigmoid's output, or the output is its logit."""

    def check(self, activation: Activation, outputs: int) -> None:
        """See `Loss`."""
        if activation.name not in ("identity", "sigmoid"):
            raise InputError(
                f"loss bce: the last layer's activation is {activation}: it has to be sigmoid, or identity for logits"
            )

    def value(self, y: Array, count: int, targets: Array, rows: Array, activation: Activation) -> tuple[float, int]:
        """See `Loss`."""
        y, t = y[:, :count], _wanted(targets, rows, y.dtype)
        logits = activation.name == "identity"
        correct = int(((y > (0 if logits else 0.5)) == (t > 0.5)).all(axis=0).sum())
        with _quiet():
            if logits:  # log(1 + exp(-|y|)) + max(y, 0) - t y
                each = _decay(y)
                np.log1p(each, out=each)
                each += np.maximum(y, 0)
                each -= np.multiply(t, y, out=t)
            else:  # -t log y - (1 - t) log(1 - y); a logarithm of zero counts as -100, as PyTorch has it
                each = np.log(y)
                each = np.multiply(np.maximum(each, -100, out=each), t, out=each)
                other = np.negative(y)
                np.maximum(np.log1p(other, out=other), -100, out=other)
                each += np.multiply(other, np.subtract(1, t, out=t), out=other)
                np.negative(each, out=each)
        return float(each.sum(dtype=np.float64)) / rows.size, correct

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """See `Loss`."""
        found = self.value(y, count, targets, rows, activation)
        p, difference = y[:, :count], _wanted(targets, rows, y.dtype)
        with _quiet():
            if activation.name == "identity":
                small = _decay(p)
                p = np.where(p >= 0, 1, small)
                p /= np.add(small, 1, out=small)
            np.subtract(p, difference, out=difference)
        # By the sums it is p - t for both: the derivative of the logarithms cancels the sigmoid's.
        _finish(difference, p, _IDENTITY, delta, weight / rows.size)
        return found


def _quiet() -> np.errstate:
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def _wanted(targets: Array, rows: Array, dtype: np.dtype[Any]) -> Array:
    """Targets as a panel like the outputs, of their dtype: what is wider is not to promote them. May be written into."""
    wanted: Array = np.empty((rows.size, targets.shape[0]), dtype)
    gather_targets(targets, rows, wanted)
    return wanted


def _decay(y: Array) -> Array:
    """exp(-|y|), which never overflows."""
    decay: Array = np.abs(y)
    np.negative(decay, out=decay)
    return np.exp(decay, out=decay)


def _finish(derivative: Array, y: Array, activation: Activation, delta: Array, weight: float) -> None:
    """Write weight * derivative * f'(z), which follows from y = f(z); `derivative` is used up."""
    count = y.shape[1]
    delta[:, count:] = 0
    with _quiet():
        out = np.multiply(derivative, y.dtype.type(weight), out=delta[:, :count])
        _derive(out, y, activation, derivative)


def _derive(out: Array, y: Array, activation: Activation, spare: Array | None) -> None:
    """Multiply `out` by f'(z), which follows from y = f(z); `spare` is a panel that may be written into."""
    if activation.name in ("sigmoid", "tanh"):
        squares = np.multiply(y, y, out=spare)
        np.subtract(y if activation.name == "sigmoid" else 1, squares, out=squares)
        out *= squares
    elif activation.name != "identity":
        low, high, slope = slopes(activation)
        np.multiply(out, y.dtype.type(slope), out=out, where=~(y > low) | (y >= high))


#: Losses, by name.
LOSSES: dict[str, Any] = {"softmax": Softmax(), "mse": SquaredError(), "bce": BinaryCrossEntropy()}
