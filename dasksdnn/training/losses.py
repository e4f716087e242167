"""Losses of a panel of outputs: their value, and the derivative by the last layer's sums that backprop begins with.

Panels are (neurons, width), samples are columns; columns behind the samples are padding, and get a delta of zero. Values
follow PyTorch's: cross-entropy of class numbers, mean squared error, binary cross-entropy.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.kernels.activations import slopes
from dasksdnn.network import Activation, Array


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
        shifted = y - y.max(axis=0)
        share = np.exp(shifted)
        total = share.sum(axis=0)
        loss = float((np.log(total) - shifted[place, samples]).sum(dtype=np.float64))
        # Of several largest outputs the first neuron's counts, whatever the order of the panel.
        best = np.where(shifted == 0, rows[:, None], rows.size).min(axis=0)
        share /= total
        return loss, int((best == targets).sum()), share, place


class SquaredError:
    """The mean over the outputs of squared differences."""

    def check(self, activation: Activation, outputs: int) -> None:
        """See `Loss`."""

    def value(self, y: Array, count: int, targets: Array, rows: Array, activation: Activation) -> tuple[float, int]:
        """See `Loss`."""
        difference = y[:, :count] - targets.T[rows]
        return float(np.square(difference).sum(dtype=np.float64)) / rows.size, 0

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """See `Loss`."""
        difference = y[:, :count] - targets.T[rows]
        loss = float(np.square(difference).sum(dtype=np.float64)) / rows.size
        _finish(difference, y[:, :count], activation, delta, weight * 2 / rows.size)
        return loss, 0


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
        y, t = y[:, :count], targets.T[rows].astype(y.dtype, copy=False)
        if activation.name == "identity":
            each = np.maximum(y, 0) - y * t + np.log1p(np.exp(-np.abs(y)))
            likely = y > 0
        else:
            with np.errstate(divide="ignore"):  # a logarithm of zero counts as -100, as PyTorch has it
                each = -t * np.maximum(np.log(y), -100) - (1 - t) * np.maximum(np.log1p(-y), -100)
            likely = y > 0.5
        correct = int((likely == (t > 0.5)).all(axis=0).sum())
        return float(each.sum(dtype=np.float64)) / rows.size, correct

    def value_and_delta(
        self, y: Array, count: int, targets: Array, rows: Array, activation: Activation, delta: Array, weight: float
    ) -> tuple[float, int]:
        """See `Loss`."""
        found = self.value(y, count, targets, rows, activation)
        p = y[:, :count]
        if activation.name == "identity":
            small = np.exp(-np.abs(p))
            p = np.where(p >= 0, 1, small) / (1 + small)
        delta[:, count:] = 0
        delta[:, :count] = (p - targets.T[rows]) * y.dtype.type(weight / rows.size)
        return found


def _finish(derivative: Array, y: Array, activation: Activation, delta: Array, weight: float) -> None:
    """Write weight * derivative * f'(z), which follows from y = f(z)."""
    count = y.shape[1]
    delta[:, count:] = 0
    out = np.multiply(derivative, y.dtype.type(weight), out=delta[:, :count])
    if activation.name == "sigmoid":
        out *= y - y * y
    elif activation.name == "tanh":
        out *= 1 - y * y
    elif activation.name != "identity":
        low, high, slope = slopes(activation)
        inside = (y > low) & ~(y >= high)
        out *= np.where(inside, y.dtype.type(1), y.dtype.type(slope))


#: Losses, by name.
LOSSES: dict[str, Any] = {"softmax": Softmax(), "mse": SquaredError(), "bce": BinaryCrossEntropy()}
