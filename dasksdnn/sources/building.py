"""A network put together as a graph is walked: products, what is added to them, and the activations that follow.

Linear / MatMul  ->  Add  ->  Relu, Clip, Hardtanh, ...  ->  the next product  ...  (-> Softmax, left out with a note)
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy.typing as npt

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Network
from dasksdnn.sources.pieces import Piece, Values, assemble

SUPPORTED = "identity, relu, clip (0 to a bound), leaky_relu, sigmoid and tanh"


@dataclass(slots=True)
class _Draft:
    """A layer so far: bounds are those of its activation, unless it is more than bounds."""

    name: str
    weights: Values
    bias: Values | None
    smooth: Activation | None = None
    low: float = -math.inf
    high: float = math.inf
    bounded_by: str = ""

    @property
    def is_linear(self) -> bool:
        return self.smooth is None and not self.bounded_by


class Builder:
    """Call its methods in the order of the graph, then `network`; `name` is what a fault is to name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._drafts: list[_Draft] = []
        self._softmax: str | None = None

    def refuse(self, name: str, fault: str) -> InputError:
        """Make the error for one node or module."""
        return InputError(f"{self.source}: {name}: {fault}")

    def product(self, name: str, weights: Values, bias: Values | None = None) -> None:
        """Begin a layer."""
        self._refuse_after_softmax(name)
        self._drafts.append(_Draft(f"{self.source}: {name}", weights, bias))

    def add(self, name: str, bias: Values) -> None:
        """Add a bias to the layer's product."""
        draft = self._layer(name, "adds to the input")
        if not draft.is_linear or draft.bias is not None:
            raise self.refuse(name, "adds to what is no product of weights; a bias directly follows its product, once")
        draft.bias = bias

    def weights(self, name: str) -> Values:
        """Of the layer that is being made."""
        return self._layer(name, "adds to the input").weights

    def bound(self, name: str, low: float, high: float) -> None:
        """Bound the layer's outputs: relu is (0, inf), clip (0, bound); bounds may follow bounds."""
        draft = self._layer(name, "is an activation of the input")
        if draft.smooth is not None:
            raise self.refuse(name, f"follows {draft.smooth}; a layer has one activation")
        if math.isnan(low) or math.isnan(high):
            raise self.refuse(name, "has a bound that is no number")
        draft.low, draft.high = max(draft.low, low), min(draft.high, high)
        if (low, high) != (-math.inf, math.inf):
            draft.bounded_by = name
        if not draft.low < draft.high:
            raise self.refuse(name, f"bounds {low:g} to {high:g} leave no values")

    def activate(self, name: str, activation: Activation) -> None:
        """Give the layer an activation that is more than bounds."""
        draft = self._layer(name, "is an activation of the input")
        if not draft.is_linear:
            raise self.refuse(name, f"{activation} follows another activation; a layer has one")
        draft.smooth = activation

    def softmax(self, name: str) -> None:
        """Leave out a softmax at the end: training with loss softmax, and the largest output, take the logits."""
        self._layer(name, "is a softmax of the input")
        self._softmax = name

    def network(self, *, dtype: npt.DTypeLike | None = None) -> Network:
        """Make the network, its layers loaded when they are asked for.

        Raises
        ------
        InputError
            For layers that do not chain, or bounds that are none of our activations.
        """
        pieces = [Piece(d.name, d.weights, d.bias, d.smooth or self._bounds(d)) for d in self._drafts]
        net = assemble(pieces, self.source, dtype=dtype)
        if self._softmax is not None:
            note = f"{self._softmax} is left out: outputs are its logits, as training with loss softmax takes them"
            logging.getLogger("dasksdnn").warning("%s: %s", self.source, note)
            net.notes = (note,)
        return net

    def _layer(self, name: str, fault: str) -> _Draft:
        self._refuse_after_softmax(name)
        if not self._drafts:
            raise self.refuse(name, f"{fault}, before any weights; take it out, and apply it to the data")
        return self._drafts[-1]

    def _refuse_after_softmax(self, name: str) -> None:
        if self._softmax is not None:
            raise self.refuse(self._softmax, f"is followed by {name}; a softmax can only be the last")

    def _bounds(self, draft: _Draft) -> Activation:
        if (draft.low, draft.high) == (-math.inf, math.inf):
            return Activation("identity")
        if draft.low != 0:
            bounds = f"bounds {draft.low:g} to {draft.high:g} are none of our activations: {SUPPORTED}"
            raise self.refuse(draft.bounded_by, bounds)
        return Activation("relu") if draft.high == math.inf else Activation("clip", draft.high)
