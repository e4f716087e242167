"""One rank's share of training: all parts and all samples on one machine, or some of either among many ranks.

a step:  rows --fill--> tape   slab 0 -> 1 -> ... forward    loss    ... -> 1 -> slab 0 backward, weights updated
(in rounds, where the batch is wider than the tape: their gradients are added up, the last one updates)

Where parts are split over ranks, panels are completed before a layer that needs what others own (expand), and partial sums
go back behind it (fold). Where samples are split, gradients are added up over the ranks before any is applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import monotonic_ns
from typing import Any

import scipy.sparse

from dasksdnn.compiling import warm_up
from dasksdnn.engines.exchange import Exchange, Grid, Reduction
from dasksdnn.engines.exchange import Outputs as AllOutputs
from dasksdnn.engines.loading import positions_dtype
from dasksdnn.engines.part import Part, finite
from dasksdnn.engines.probing import Probe
from dasksdnn.engines.shares import Share, whole
from dasksdnn.engines.transport import Alone, gather
from dasksdnn.engines.working import Need, Working
from dasksdnn.events import Listener, ignore
from dasksdnn.kernels import panels, passes
from dasksdnn.kernels import rows as row_kernels
from dasksdnn.kernels.panels import LANES, fill_csr, fill_dense
from dasksdnn.kernels.routes import COMPUTING
from dasksdnn.kernels.tape import Dropout, new_tape
from dasksdnn.kernels.team import Team
from dasksdnn.kernels.update import Rule
from dasksdnn.network import Array
from dasksdnn.plan.training import TrainingSettings, segments_of
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store

#: Told of each tile's outputs: panel, how many samples, the first of them in the batch, which neuron each row is, and the
#: panel to write the delta to. A second call is for outputs alone: the delta is None then.
Outputs = Callable[[Array, int, int, Array, Array | None], None]
#: From the norm of the whole gradient to the factor that it is multiplied by.
Clip = Callable[[float], float]


class Trainer:
    """Weights that are being trained, and the memory to do it in. Used by one thread; close it when done.

    Parameters
    ----------
    store : Store
    settings : TrainingSettings
        Of a plan.
    moments : tuple of str
        Of the optimizer.
    dropout : float
        Share of hidden outputs that a step drops.
    restore : bool
        Take moments from the store, too.
    scratch : path or None
    listener : callable
    share : Share, optional
        The parts that this rank holds; by default all.
    grid : Grid, optional
        Where it stands among other ranks, which make the same calls with the same arguments at the same time.
    """

    def __init__(
        self,
        store: Store,
        settings: TrainingSettings,
        moments: tuple[str, ...] = (),
        *,
        dropout: float = 0.0,
        restore: bool = False,
        scratch: str | os.PathLike[str] | None = None,
        listener: Listener = ignore,
        share: Share | None = None,
        grid: Grid | None = None,
    ) -> None:
        self.store, self.settings, self.dropout, self._scratch = store, settings, dropout, scratch
        self.grid, self.share = grid or Grid(Alone()), share or whole(store)
        if self.grid.transport.size > 1 and (settings.every > 1 or (self.grid.replicas > 1 and not settings.held)):
            raise ValueError("several ranks keep all activations, and where samples are split hold the gradient")
        self.working = Working(
            store, settings, moments, restore=restore, scratch=scratch, listener=listener, share=self.share
        )
        self._team: Team | None = None
        self._meets = frozenset(self.share.meets)
        self._filled = 0
        try:
            widths = self.share.widths
            at, rows = settings.places(widths)
            self._tape = new_tape(widths, at, rows, settings.tile, settings.tiles, store.dtype, dropout > 0)
            self.exchange = Exchange(self.grid, self.share, settings.tile, settings.tiles, store.dtype)
            self._reduction = Reduction(self.grid, self.exchange.tally[2])
            self._outputs = (
                AllOutputs(self.grid, self.share, settings.tile, store.dtype) if self.share.owners > 1 else None
            )
            self._team = Team(settings.threads) if settings.threads > 1 else None
        except BaseException:
            self.working.close()
            raise

    # -- steps

    def step(self, rows: Any, outputs: Outputs, rule: Rule, step: int, key: int = 0, clip: Clip | None = None) -> None:
        """Train on one batch.

        Parameters
        ----------
        rows : array or csr_array of shape (samples, inputs)
        outputs : callable
            The loss; what it raises ends the step before any weight has changed, if the batch is one round.
        rule : Rule
        step : int
            Counted from 1.
        key : int
            Of dropout.
        clip : callable, optional
            From the norm of the whole gradient to the factor that it is multiplied by.
        """
        low, high = self.grid.samples(int(rows.shape[0]))
        wide, apart = self.settings.samples, self.grid.replicas > 1
        starts = range(low, high, wide)
        for start in starts:
            count = min(wide, high - start)
            dropout = Dropout(self.dropout, key, start)
            last = start == starts[-1] and clip is None and not apart
            some = rows[start : start + count]
            self._round(some, outputs, start, dropout, rule if last else None, step, held=start > low)
        if apart:
            self._sum_gradients(none=low == high)
        if clip is not None or apart:
            self._apply(rule, step, clip)

    def _round(
        self, rows: Any, outputs: Outputs, start: int, dropout: Dropout, rule: Rule | None, step: int, held: bool
    ) -> None:
        count, slabs = int(rows.shape[0]), range(len(self.settings.slabs))
        self._fill(rows)
        order = [*((j, Need.FORWARD) for j in slabs), *((j, Need.CHANGE) for j in reversed(slabs))]
        with closing(self.working.sweep(order)) as sweep:
            for (j, need), part in zip(order, sweep, strict=True):
                if need is Need.FORWARD:
                    self._forward(part, j, count, dropout)
                    if j == slabs[-1]:
                        self._tell(part.rows, count, start, outputs, learning=True)
                else:
                    fresh = j == slabs[-1]
                    for stage in reversed(self._stages(j)):
                        segments = segments_of(self.settings, stage)
                        with self._computing(1, stage[0]):
                            part.backward(
                                self._tape,
                                segments,
                                count,
                                dropout,
                                self._team,
                                fresh=fresh,
                                rule=rule,
                                step=step,
                                held=held,
                                routes=self.exchange.routes,
                            )
                        self._fold(stage[0], count)

    def _stages(self, j: int) -> list[tuple[int, int]]:
        """What of a slab is one call: all of it, where compiled code exchanges itself."""
        slab = self.settings.slabs[j]
        return self.share.stages(*slab) if self.exchange.routes is None else [slab]

    def _forward(self, part: Part, j: int, count: int, dropout: Dropout) -> None:
        """Run a slab forward, completing panels where anyone needs what others own."""
        routes = self.exchange.routes
        for stage in self._stages(j):
            if routes is None and stage[0] in self._meets:
                self.exchange.expand(self._panels(stage[0], count, self._tape.panel), stage[0])
            with self._computing(0, stage[0]):
                part.forward(self._tape, stage, count, dropout, self._team, routes)

    @contextmanager
    def _computing(self, back: int, layer: int) -> Iterator[None]:
        """Count the time of the block as that of a layer, and of those that go with it; compiled code that exchanges does so."""
        began = monotonic_ns()
        yield
        if self.exchange.routes is None:
            self.exchange.tally[back, layer, COMPUTING] += monotonic_ns() - began

    def _fold(self, k: int, count: int) -> None:
        if self.exchange.routes is None and k in self._meets:
            self.exchange.fold(self._panels(k, count, self._tape.delta), k)

    def _panels(self, k: int, count: int, panel: Callable[[int, int], Array]) -> list[tuple[Array, int]]:
        tile = self._tape.tile
        return [(panel(t, k), min(tile, count - t * tile)) for t in range(-(-count // tile))]

    def _sum_gradients(self, none: bool) -> None:
        """Add up the gradients of all replicas, each in its range; one that had no sample adds zero."""
        slabs = range(len(self.settings.slabs))
        with closing(self.working.sweep([(j, Need.CHANGE) for j in slabs])) as sweep:
            for part in sweep:
                sums = [part.gradient, part.bias_gradient]
                for gradient in sums if none else ():
                    gradient[:] = 0
                self._reduction.add_up(sums, part.base)

    def _apply(self, rule: Rule, step: int, clip: Clip | None) -> None:
        """Apply the gradient that is held; where samples are split, in this rank's range, and take the others'."""
        slabs = range(len(self.settings.slabs))
        factor = 1.0 if clip is None else clip(self._norm())
        with closing(self.working.sweep([(j, Need.CHANGE) for j in slabs])) as sweep:
            for part in sweep:
                part.apply(rule, step, factor, self._team, self._reduction.range)
                if self.grid.replicas > 1:
                    self._reduction.give([part.chain.data, part.chain.bias], part.base)

    def _norm(self) -> float:
        """Of the whole gradient, over all ranks."""
        squares = 0.0
        with closing(self.working.sweep([(j, Need.LOOK) for j in range(len(self.settings.slabs))])) as sweep:
            for part in sweep:
                squares += part.squares(self._reduction.range)
        return float(sum(gather(self.grid.transport, squares)) ** 0.5)

    # -- outputs alone

    def outputs(self, rows: Any, outputs: Outputs) -> None:
        """Run a batch forward with the weights as they are now, and nothing dropped.

        Parameters
        ----------
        rows : array or csr_array of shape (samples, inputs)
        outputs : callable
        """
        low, high = self.grid.samples(int(rows.shape[0]))
        wide, order = self.settings.samples, [(j, Need.FORWARD) for j in range(len(self.settings.slabs))]
        for start in range(low, high, wide):
            some = rows[start : min(start + wide, high)]
            count = int(some.shape[0])
            self._fill(some)
            with closing(self.working.sweep(order)) as sweep:
                for (j, _), part in zip(order, sweep, strict=True):
                    self._forward(part, j, count, Dropout())
                    if j == order[-1][0]:
                        self._tell(part.rows, count, start, outputs, learning=False)

    def probe(self, rows: Any, outputs: Outputs) -> Probe:
        """Activations and deltas of every layer for one round's samples; no weight changes.

        Parameters
        ----------
        rows : array or csr_array of shape (samples, inputs)
            Of more samples than a round has, the first.
        outputs : callable
            The loss, as for `step`.

        Returns
        -------
        Probe
            To be closed.
        """
        rows = rows[: self.settings.samples]
        count, slabs = int(rows.shape[0]), range(len(self.settings.slabs))
        found = Probe(self._scratch, count, self.store.dtype)
        self._fill(rows)
        order = [*((j, Need.FORWARD) for j in slabs), *((j, Need.LOOK) for j in reversed(slabs))]
        try:
            with closing(self.working.sweep(order)) as sweep:
                for (j, need), part in zip(order, sweep, strict=True):
                    segments = segments_of(self.settings, self.settings.slabs[j])
                    if need is Need.FORWARD:
                        part.forward(self._tape, self.settings.slabs[j], count, Dropout(), self._team)
                        if j == slabs[-1]:
                            self._tell(part.rows, count, 0, outputs, learning=True)
                    else:
                        self._look_back(part, segments, count, found)
        except BaseException:
            found.close()
            raise
        return found

    def _look_back(self, part: Part, segments: list[tuple[int, int]], count: int, found: Probe) -> None:
        tape = self._tape
        tiles = [(t, min(tape.tile, count - t * tape.tile)) for t in range(-(-count // tape.tile))]
        for first, last in reversed(segments):
            if last - first > 1:
                part.forward(tape, (first, last - 1), count, Dropout(), self._team)
            for k in reversed(range(first, last)):
                found.add("x", k, part.neurons(k), [tape.panel(t, k)[:, :n] for t, n in tiles])
                found.add("delta", k + 1, part.neurons(k + 1), [tape.delta(t, k + 1)[:, :n] for t, n in tiles])
                part.backward(
                    tape, [(k, k + 1)], count, Dropout(), self._team, fresh=True, rule=None, step=1, held=False
                )

    def _tell(self, rows: Array, count: int, start: int, outputs: Outputs, learning: bool) -> None:
        """Show the outputs on the tape, tile by tile."""
        tape, last = self._tape, len(self.store)
        for tile in range(-(-count // tape.tile)):
            first = tile * tape.tile
            width = min(tape.tile, count - first)
            y, delta = tape.panel(tile, last), tape.delta(tile, last) if learning else None
            if self._outputs is None:
                outputs(y, width, start + first, rows, delta)
                continue
            every = self._outputs.delta() if learning else None
            outputs(self._outputs.gather(y), width, start + first, self._outputs.rows, every)
            if delta is not None and every is not None:
                delta[:] = every[self._outputs.own]

    def _fill(self, rows: Any) -> None:
        """Write samples into the tape, and zero where a tile's last vector has none."""
        tape, count = self._tape, int(rows.shape[0])
        self._filled = count
        for tile in range(-(-count // tape.tile)):
            panel, first = tape.panel(tile, 0), tile * tape.tile
            last = min(first + tape.tile, count)
            if scipy.sparse.issparse(rows):
                fill_csr(panel, panel.shape[0], rows.indptr, rows.indices, rows.data, first, last)
            else:
                fill_dense(panel, rows[first:last])
                panel[:, last - first : -(-(last - first) // LANES) * LANES] = 0

    def faulty_layer(self) -> int | None:
        """The first layer (1 for W_1) whose outputs are not all finite, of those that the tape keeps of the last round."""
        kept = {0, *(last for _, last in self.settings.segments())}
        return next((k for k in sorted(kept) if not finite(self._tape, k, self._filled)), None)

    # -- state

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes read from and written to scratch so far."""
        self.working.flush()
        return self.working.read, self.working.written

    @property
    def words(self) -> int:
        """Values that this rank has sent to other owners in expands and folds so far."""
        return self.exchange.words

    def summed(self, values: Array) -> Array:
        """The sum of a small float64 array over all replicas, in their order."""
        return self._reduction.summed(values)

    def gather_moments(self) -> None:
        """Let every replica have the moments of all ranges, which only the one that applies a range keeps up to date."""
        if self.grid.replicas > 1:
            with closing(self.working.sweep([(j, Need.CHANGE) for j in range(len(self.settings.slabs))])) as sweep:
                for part in sweep:
                    self._reduction.give([*part.moments, *part.bias_moments], part.base)

    def values(self, window: Window, name: str) -> Array:
        """One array of a window's state; see `Working.values`."""
        return self.working.values(window, name)

    def close(self) -> None:
        """Give memory, threads and scratch back."""
        if self._team is not None:
            self._team.close()
        self.working.close()


def prepare(store: Store, listener: Listener = ignore, *, exchanging: bool = False) -> None:
    """Compile, or load from the cache, what training a store needs, so that its memory and time are not part of the run.

    With `exchanging`, also for passes whose compiled code exchanges rows.
    """
    positions = positions_dtype(store)
    warm_up(
        [
            *panels.warm_up_calls(store.dtype),
            *passes.warm_up_calls(store.dtype, positions),
            *(passes.warm_up_calls(store.dtype, positions, exchanging=True) if exchanging else ()),
            *row_kernels.warm_up_calls(store.dtype),
        ],
        listener,
    )
