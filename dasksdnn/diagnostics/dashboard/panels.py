"""The panels of the page /sdnn."""

from __future__ import annotations

from abc import abstractmethod
from time import time
from typing import Any, ClassVar

from bokeh.models import (
    BasicTicker,
    ColorBar,
    FixedTicker,
    LinearAxis,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
)

from dasksdnn.diagnostics.dashboard.panel import Following, Panel, fit, fit_values, large, put
from dasksdnn.diagnostics.dashboard.state import RunState, WorkerState

BLUE, ORANGE, GRAY, GREEN = "#3b73b9", "#e8963c", "#a3a9b0", "#3f9b62"
MIB = 1 << 20


class _Workers(Panel):
    """A row for each worker, the first on top."""

    rows: ClassVar[str] = "worker: its parts"

    def ranges(self) -> dict[str, Any]:
        return {"x_range": Range1d(0, 1), "y_range": Range1d(1, 0)}

    def rowed(self, run: RunState) -> list[WorkerState]:
        """The workers, and axes with a label for each of them, or for every n-th of many."""
        workers = list(run.workers.values())
        step = max(1, -(-len(workers) // 24))
        axis, some = self.figure.yaxis[0], workers[::step]
        labels = {i * step + 0.5: worker.label for i, worker in enumerate(some)}
        if axis.major_label_overrides != labels:
            axis.ticker, axis.major_label_overrides = FixedTicker(ticks=list(labels)), labels
            fit(self.figure.y_range, max(1, len(workers)), 0)
        return workers

    def labelled(self) -> None:
        self.figure.yaxis[0].axis_label = self.rows
        self.figure.yaxis[0].ticker = FixedTicker(ticks=[])
        self.figure.ygrid.visible = False


class Load(_Workers):
    """How much of its time each worker computes, waits for others, and packs what it sends."""

    name, title, x = "load", "Load of workers", "share of time, lately (%)"
    tooltips: ClassVar[list[tuple[str, str]] | None] = [("worker", "@label"), ("stored weights", "@edges{0,0}"), ("computing", "@computing{0.0} %"), ("waiting", "@waiting{0.0} %"), ("packing", "@packing{0.0} %")]  # fmt: skip

    def ranges(self) -> dict[str, Any]:
        return {**super().ranges(), "x_range": Range1d(0, 100)}

    def draw(self) -> None:
        self.labelled()
        self._source = self.source("y", "label", "edges", "computing", "waiting", "packing")
        kinds = ["computing", "waiting", "packing"]
        made = self.figure.hbar_stack(kinds, y="y", height=0.7, color=[BLUE, ORANGE, GRAY], source=self._source)
        self.above(**dict(zip(kinds, made, strict=True)))

    def follow(self, run: RunState) -> str:
        workers, now = self.rowed(run), time()
        shares = [worker.shares(now) for worker in workers]
        computing, waiting, packing = zip(*shares, strict=True) if shares else ((), (), ())
        middles = [i + 0.5 for i in range(len(workers))]
        labels, edges = [w.label for w in workers], [w.edges for w in workers]
        put(self._source, y=middles, label=labels, edges=edges, computing=computing, waiting=waiting, packing=packing)
        if len(run.planned) < 2:
            return "all parts on each"
        edges = [n for n in edges if n]
        return f"weights at most {max(edges) * len(edges) / max(1, sum(edges)):.2f} x the mean"


class Memory(_Workers):
    """What each worker holds, against what it may."""

    name, title, x = "memory", "Memory of workers", "resident (MiB)"
    tooltips: ClassVar[list[tuple[str, str]] | None] = [("worker", "@label"), ("resident", "@resident{0,0} MiB"), ("budget", "@budget{0,0} MiB")]  # fmt: skip

    def draw(self) -> None:
        self.labelled()
        self.figure.xaxis.formatter = NumeralTickFormatter(format="0,0")
        self._source = self.source("top", "bottom", "y", "label", "resident", "budget")
        bars = self.figure.hbar(y="y", right="resident", height=0.7, color=GREEN, source=self._source)
        marks = self.figure.segment("budget", "top", "budget", "bottom", color="#b03030", line_width=3, source=self._source)  # fmt: skip
        self.above(resident=bars, budget=marks)

    def follow(self, run: RunState) -> str:
        workers = self.rowed(run)
        n = range(len(workers))
        resident, budget = [w.resident / MIB for w in workers], [w.budget / MIB for w in workers]
        rows = {"y": [i + 0.5 for i in n], "top": [i + 0.1 for i in n], "bottom": [i + 0.9 for i in n]}
        put(self._source, **rows, label=[w.label for w in workers], resident=resident, budget=budget)
        fit(self.figure.x_range, 0, 1.08 * max([1.0, *resident, *budget]))
        used = max((w.resident / w.budget for w in workers if w.budget), default=0.0)
        return f"{used:.0%} of the budget at most"


class _Words(Panel):
    """A heat map of who sends how much to whom; both have one scale."""

    x, y = "receiving owner", "sending owner"
    tooltips: ClassVar[list[tuple[str, str]] | None] = [("from", "@sender"), ("to", "@receiver"), ("words", "@words{0,0}")]  # fmt: skip

    def ranges(self) -> dict[str, Any]:
        return {"x_range": Range1d(-0.5, 1.5), "y_range": Range1d(1.5, -0.5)}

    def draw(self) -> None:
        self._source = self.source("sender", "receiver", "words")
        self._colours = LinearColorMapper(["#f7fbff", "#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b"], low=0, high=1)  # fmt: skip
        fill = {"field": "words", "transform": self._colours}
        self.figure.rect("receiver", "sender", 1, 1, fill_color=fill, line_color="white", source=self._source)
        self.figure.grid.visible = False
        for axis in self.figure.axis:
            axis.ticker = BasicTicker(min_interval=1, desired_num_ticks=6, num_minor_ticks=0)
        form = large()
        bar = ColorBar(color_mapper=self._colours, width=8, padding=4, formatter=form, title="words", title_text_font_size="8pt")  # fmt: skip
        self.figure.add_layout(bar, "right")

    def follow(self, run: RunState) -> str:
        owners = len(run.planned)
        if owners < 2:
            put(self._source, sender=[], receiver=[], words=[])
            return "none, samples are split"
        words = self.words(run)
        pairs = [(i, j) for i in range(owners) for j in range(owners) if i != j]
        values = [int(words[i, j]) for i, j in pairs]
        put(self._source, sender=[i for i, _ in pairs], receiver=[j for _, j in pairs], words=values)
        fit(self.figure.x_range, -0.5, owners - 0.5)
        fit(self.figure.y_range, owners - 0.5, -0.5)
        self._colours.high = max(1, int(run.measured.max()), int(run.expected.max()))
        return f"{sum(values):,}"

    @abstractmethod
    def words(self, run: RunState) -> Any:
        """The matrix."""


class Planned(_Words):
    """Words of the communication plan for the samples so far, were none of them dead."""

    name, title = "words-planned", "Words planned"

    def words(self, run: RunState) -> Any:
        return run.expected


class Measured(_Words):
    """Words that were sent."""

    name, title = "words-measured", "Words sent"

    def words(self, run: RunState) -> Any:
        return run.measured


class Timeline(_Workers):
    """When each worker was at which layer: layers from top to bottom in its row, darker where it was longer."""

    name, title, x = "timeline", "Timeline", "since the run began (s)"
    rows = "worker: its parts (layers downwards)"
    tooltips: ClassVar[list[tuple[str, str]] | None] = [("worker", "@label"), ("layers", "@layers"), ("computing", "@computing{0.000} s"), ("waiting", "@waiting{0.000} s"), ("packing", "@packing{0.000} s")]  # fmt: skip

    def draw(self) -> None:
        self.labelled()
        columns = ("left", "right", "top", "bottom", "color", "alpha", "label", "layers", "computing", "waiting", "packing")  # fmt: skip
        source = self.source(*columns)
        self._following = Following(source, lambda run: run.rectangles)
        quads = {"left": "left", "right": "right", "top": "top", "bottom": "bottom", "source": source}
        self.figure.quad(**quads, fill_color="color", fill_alpha="alpha", line_color=None)
        keys = {kind: self.figure.scatter([-1], [-1], marker="square", size=10, color=c) for kind, c in (("mostly_computing", BLUE), ("mostly_waiting", ORANGE))}  # fmt: skip
        self.above(**keys)

    def clear(self) -> None:
        self._following.clear()

    def follow(self, run: RunState) -> str:
        places = {worker.address: (i, worker.label) for i, worker in enumerate(self.rowed(run))}
        spans = {first: run.span(first) for first in run.firsts}

        def quad(row: tuple[Any, ...]) -> tuple[Any, ...]:
            began, ended, address, first, computing, waiting, packing, busy = row
            (low, high), (row_of, label), each = spans[first], places[address], 0.92 / run.layers
            place = row_of + 0.04
            colour = ORANGE if waiting > computing else BLUE
            layers = f"{low + 1} to {high}" if high > low + 1 else str(high)
            sides = (began, ended, place + each * low, place + each * high)
            return (*sides, colour, 0.12 + 0.88 * min(1.0, busy), label, layers, computing, waiting, packing)

        self._following.follow(run, quad)
        fit(self.figure.x_range, next((row[0] for row in run.rectangles.rows), 0.0), run.seconds)
        return f"{run.layers} layers"


class Batches(Panel):
    """Batches in flight, and samples that are done."""

    name, title, x, y = "batches", "Batches in flight", "since the run began (s)", "batches"

    def draw(self) -> None:
        source = self.source("seconds", "flying", "done")
        self._following = Following(source, lambda run: run.batches)
        self.figure.yaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
        self.figure.extra_y_ranges = {"samples": Range1d(0, 1)}
        flying = self.figure.step("seconds", "flying", source=source, mode="after", color=BLUE, line_width=2)
        done = self.figure.line("seconds", "done", source=source, color=GREEN, line_width=2, y_range_name="samples")
        axis = LinearAxis(y_range_name="samples", axis_label="samples", formatter=large())
        axis.axis_label_text_font_style = "normal"
        self.figure.add_layout(axis, "right")
        self.above(in_flight=flying, samples_done=done)

    def clear(self) -> None:
        self._following.clear()

    def follow(self, run: RunState) -> str:
        self._following.follow(run)
        flying = [row[1] for row in run.batches.rows]
        fit(self.figure.x_range, 0, run.seconds)
        fit(self.figure.y_range, 0, 1.1 * max([2, *flying]))
        fit(self.figure.extra_y_ranges["samples"], 0, 1.1 * max(1, run.facts["samples"]))
        now = flying[-1] if flying and run.ended is None else 0
        return f"{now} now, {max(flying, default=0)} at most"


class _Curve(Panel):
    """A figure of training: of the batches lately, of epochs, and of validation."""

    x = "epochs"
    of: ClassVar[str]
    place: ClassVar[int]

    def draw(self) -> None:
        lately, epochs = self.source("epoch", "value"), self.source("epoch", "trained", "validation", name=f"{self.name}-epochs")  # fmt: skip
        self._following, self._epochs = Following(lately, lambda run: run.learned), epochs
        batches = self.figure.line("epoch", "value", source=lately, color=GRAY, line_width=1.5)
        trained = self.figure.line("epoch", "trained", source=epochs, color=BLUE, line_width=2)
        self.figure.scatter("epoch", "trained", source=epochs, color=BLUE, size=5)
        looked = self.figure.line("epoch", "validation", source=epochs, color=ORANGE, line_width=2)
        self.figure.scatter("epoch", "validation", source=epochs, color=ORANGE, size=5)
        self.above(batches=batches, epochs=trained, validation=looked)

    def clear(self) -> None:
        self._following.clear()

    def follow(self, run: RunState) -> str:
        nan = float("nan")

        def values(name: str) -> list[float]:
            return [nan if e[name] is None else e[name] for e in run.epochs]

        self._following.follow(run, lambda row: (row[0], nan if row[self.place] is None else row[self.place]))
        ends = [e["epoch"] for e in run.epochs]
        if len(self._epochs.data["epoch"]) != len(ends):
            trained, looked = values(self.of), values(f"validation_{self.of}")
            self._epochs.data = {"epoch": ends, "trained": trained, "validation": looked}
        if not run.trains:
            return "no training"
        fit(self.figure.x_range, 0, run.facts["epochs"])
        fit_values(self.figure.y_range, [*self._following.source.data["value"], *self._epochs.data["trained"], *self._epochs.data["validation"]])  # fmt: skip
        last = next((row[self.place] for row in reversed(run.learned.rows)), None)
        ended = run.epochs[-1][self.of] if run.epochs and run.ended else last
        return "" if ended is None else f"{ended:.4f}"


class Loss(_Curve):
    """The loss."""

    name, title, y, of, place = "loss", "Loss", "mean loss of a sample", "loss", 1


class Accuracy(_Curve):
    """The accuracy, where there are classes."""

    name, title, y, of, place = "accuracy", "Accuracy", "share that is right", "accuracy", 2


class Reading(Panel):
    """Bytes of stored arrays that all workers have read."""

    name, title, x, y = "store", "Read from the store", "since the run began (s)", "MiB"

    def draw(self) -> None:
        source = self.source("seconds", "read")
        self._following = Following(source, lambda run: run.reads)
        self.figure.varea("seconds", 0, "read", source=source, fill_color=BLUE, fill_alpha=0.25)
        self.figure.line("seconds", "read", source=source, color=BLUE, line_width=2)

    def clear(self) -> None:
        self._following.clear()

    def follow(self, run: RunState) -> str:
        self._following.follow(run, lambda row: (row[0], row[1] / MIB))
        read = sum(w.read for w in run.workers.values()) / MIB
        fit(self.figure.x_range, 0, run.seconds)
        fit(self.figure.y_range, 0, 1.1 * max(0.1, read))
        return f"{read:,.1f} MiB"


#: All panels, in the order of the page.
PANELS: tuple[type[Panel], ...] = (Load, Memory, Reading, Timeline, Planned, Measured, Batches, Loss, Accuracy)
