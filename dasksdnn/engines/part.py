"""One part's share of training: forward, backward and update of the rows of some layers. No I/O, no network.

    x_first  --forward-->  x_last                      kept on the tape as the settings say
    delta_first  <--backward--  delta_last             weights are updated, or their gradient is added up, on the way

An engine brings the input, exchanges activations and deltas with other parts where there are any, and holds the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dasksdnn.kernels.chain import Chain
from dasksdnn.kernels.passes import Backs, Gradient, apply_pass, backward_pass, forward_pass, sum_of_squares
from dasksdnn.kernels.routes import Routes
from dasksdnn.kernels.tape import Dropout, Tape
from dasksdnn.kernels.team import Team
from dasksdnn.kernels.update import Rule
from dasksdnn.network import Activation, Array

#: From an array's size to the range of it that is meant.
Ranges = Callable[[int], slice]


@dataclass(frozen=True, slots=True)
class Part:
    """Layers of one owner, with all that their training needs.

    Attributes
    ----------
    base : int
        The first layer, 0-based.
    chain : Chain
        Pattern, weights, biases.
    backs : Backs
        The pattern by columns.
    ids : uint32 array
        Neurons of each layer's input panel, end to end, then those that the last layer computes.
    moments, bias_moments : tuples of arrays
        Of the optimizer, beside the chain's data and bias.
    gradient, bias_gradient : arrays
        Beside the chain's data and bias where the whole gradient is held, else room for the largest layer's.
    before : Activation or None
        Of the layer before the first; None where the first layer reads the network's input.
    """

    base: int
    chain: Chain
    backs: Backs
    ids: Array
    moments: tuple[Array, ...]
    bias_moments: tuple[Array, ...]
    gradient: Array
    bias_gradient: Array
    before: Activation | None

    @property
    def last(self) -> int:
        """The layer behind the last."""
        return self.base + len(self.chain)

    @property
    def rows(self) -> Array:
        """Neurons that the last layer computes, in the panel's order."""
        return self.neurons(self.last)

    def neurons(self, k: int) -> Array:
        """Neurons of x_k (k = base: the input panel), in the panel's order."""
        widths = self.chain.widths
        first = sum(widths[: k - self.base])
        return self.ids[first : first + widths[k - self.base]]

    def forward(
        self,
        tape: Tape,
        span: tuple[int, int],
        samples: int,
        dropout: Dropout,
        team: Team | None,
        routes: Routes | None = None,
    ) -> None:
        """Run layers `span` (0-based, the last not included) over the first `samples` of a tape that holds x_first.

        Without `routes`, x_first is complete, and nobody exchanges anything behind it.
        """
        forward_pass(self.chain, self.ids, tape, self.base, span, samples, dropout, team, routes)

    def backward(
        self,
        tape: Tape,
        segments: Iterable[tuple[int, int]],
        samples: int,
        dropout: Dropout,
        team: Team | None,
        *,
        fresh: bool,
        rule: Rule | None,
        step: int,
        held: bool,
        routes: Routes | None = None,
    ) -> None:
        """Take the delta of the last layer back to the first, and update the weights.

        Parameters
        ----------
        tape : Tape
        segments : iterable of (first, last)
            Runs of layers between activations that are kept, in order: what is not kept is computed again.
        samples, dropout, team
        fresh : bool
            What the last segment computed forward still stands in the tape.
        rule : Rule or None
            None: only add up the gradient.
        step : int
            Counted from 1.
        held : bool
            Earlier rounds of this step have been added up.
        routes : Routes, optional
            Exchanges on the way, the one before the first layer included.
        """
        sums = Gradient(self.gradient, self.bias_gradient, held, rule, step, self.moments, self.bias_moments)
        activations = (self.before, *self.chain.activations)
        runs = list(segments)
        if all(last - first == 1 for first, last in runs):  # all is kept: one call for all layers
            runs, fresh = [(runs[0][0], runs[-1][1])], True
        for first, last in reversed(runs):
            if last - first > 1 and not fresh:
                self.forward(tape, (first, last - 1), samples, dropout, team)
            fresh = False
            before = activations[first - self.base : last - self.base]
            backward_pass(
                self.chain,
                self.backs,
                self.ids,
                tape,
                self.base,
                (first, last),
                samples,
                before,
                dropout,
                sums,
                team,
                routes,
            )

    def squares(self, share: Ranges) -> float:
        """The sum of squares of a share of the gradient, which has to be held."""
        return sum(sum_of_squares(g[share(g.size)]) for g in (self.gradient, self.bias_gradient))

    def apply(self, rule: Rule, step: int, factor: float, team: Team | None, share: Ranges) -> None:
        """Apply a rule to a share of the gradient that is held, multiplied by a factor."""
        sums = Gradient(self.gradient, self.bias_gradient, True, rule, step, self.moments, self.bias_moments)
        apply_pass(self.chain, sums, factor, team, share)


def finite(tape: Tape, k: int, samples: int) -> bool:
    """Whether the first `samples` columns of x_k on a tape are all finite."""
    return all(
        np.isfinite(tape.panel(tile, k)[:, : min(tape.tile, samples - tile * tape.tile)]).all()
        for tile in range(-(-samples // tape.tile))
    )
