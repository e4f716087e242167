"""How far a partitioned network would scale, on paper: steps modelled from counted partitions, and where more parts stop helping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dasksdnn import markup
from dasksdnn.diagnostics.comparison import Comparison
from dasksdnn.diagnostics.tables import grid
from dasksdnn.errors import InputError
from dasksdnn.partition.steptime import Machine, StepTime, best_nparts, latency_bound_from, step_alone, step_time


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction:
    """Steps of SGD at one batch size; made by `predict`, its repr is the table.

    Attributes
    ----------
    network : str
    machine : Machine
        One core a part.
    batch : int
    alone : StepTime
        Of a step in one part, which sends nothing.
    steps : dict of str to dict of int to StepTime
        By method and number of parts.
    failed : dict of (str, int) to str
        Why methods gave nothing at numbers of parts.
    """

    network: str
    machine: Machine
    batch: int
    alone: StepTime
    steps: dict[str, dict[int, StepTime]]
    failed: dict[tuple[str, int], str]

    HEADER = ("method", "parts", "compute ms", "latency ms", "bandwidth ms", "total ms", "speedup", "")

    def table(self) -> Iterator[tuple[str, ...]]:
        """Rows under `HEADER`; speedup is against one part."""
        for method, steps in self.steps.items():
            for nparts, step in steps.items():
                seconds = (step.compute, step.latency, step.bandwidth, step.total)
                speedup = f"{self.alone.total / step.total:.2f}"
                yield (method, f"{nparts:,}", *(f"{1e3 * s:,.4f}" for s in seconds), speedup, "")
        for (method, nparts), why in self.failed.items():
            yield (method, f"{nparts:,}", *["-"] * (len(self.HEADER) - 3), f"failed: {why}")

    def crossovers(self) -> dict[str, str]:
        """For each method, in words: where messages cost more than words, and where more parts stop helping."""
        return {method: f"{_bound(steps)}; {_gain(steps, self.alone)}" for method, steps in self.steps.items()}

    def __repr__(self) -> str:
        head = f"<dasksdnn.Prediction of SGD steps: {self.network}, batch {self.batch:,}>"
        ends = [f"  {method}: {words}" for method, words in self.crossovers().items()]
        return "\n".join([head, *grid(self.HEADER, self.table()), *ends])

    def _repr_html_(self) -> str:
        return markup.card(
            f"dasksdnn.Prediction of SGD steps: {self.network}, batch {self.batch:,}",
            markup.grid(self.HEADER, self.table()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "network": self.network,
            "machine": asdict(self.machine),
            "batch": self.batch,
            "one_part": self.alone.as_dict(),
            "steps": [
                {"method": method, "nparts": n, **step.as_dict(), "speedup": self.alone.total / step.total}
                for method, steps in self.steps.items()
                for n, step in steps.items()
            ],
            "failed": [{"method": method, "nparts": n, "why": why} for (method, n), why in self.failed.items()],
            "crossover": {
                method: {"latency_bound_from": latency_bound_from(steps), "best_nparts": best_nparts(steps)}
                for method, steps in self.steps.items()
            },
        }


def predict(found: Comparison, machine: Machine, batch: int) -> Prediction:
    """Model a step of SGD for every partition of a comparison.

    Parameters
    ----------
    found : Comparison
        Counted partitions.
    machine : Machine
        Its rate is that at this batch size.
    batch : int
        Samples of a step.

    Returns
    -------
    Prediction

    Raises
    ------
    InputError
        If the batch has no sample, or the network nothing to compute.
    """
    if not found.edges:
        raise InputError(f"{found.network} has no nonzeros: there is no step to predict")
    steps: dict[str, dict[int, StepTime]] = {}
    for row in found.rows:
        if row.metrics is not None:
            of = steps.setdefault(row.method, {})
            of[row.nparts] = step_time(row.metrics, machine, batch, found.itemsize)
    failed = {(row.method, row.nparts): row.why for row in found.rows if row.metrics is None}
    return Prediction(found.network, machine, batch, step_alone(found.edges, machine, batch), steps, failed)


def _bound(steps: dict[int, StepTime]) -> str:
    found = latency_bound_from(steps)
    if found is None:
        return "messages do not cost more than words"
    return f"messages cost more than words {'at any number of parts' if found == min(steps) else f'from {found:,} parts on'}"


def _gain(steps: dict[int, StepTime], alone: StepTime) -> str:
    best = best_nparts(steps)
    if steps[best].total >= alone.total:
        return "one part alone is quickest"
    reached = f"{alone.total / steps[best].total:.1f} x one part"
    if best == max(steps):
        return f"more parts help up to {best:,}, the most that were tried ({reached})"
    fewest = ", the fewest that were tried" if best == min(steps) else ""
    return f"more parts do not help beyond {best:,}{fewest} ({reached})"
