"""Choosing how the ranks of a training run share the work: samples over replicas, parts over owners, or both.

samples split   every rank holds all weights; each step the gradients of all cross, and the new weights
parts split     every rank holds its parts; each layer, the words of the plan cross for every sample, forward and back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.plan.cluster import NO_PARTS
from dasksdnn.plan.schedule import HALF_WIDTH, KERNEL_RATE, MIB
from dasksdnn.plan.training import Ranks, TrainingSizes, plan_training

#: Assumed until they are measured: seconds for all messages of a layer, and bytes a second, within a host and between hosts.
SHARED_SECONDS, SHARED_RATE = 1e-4, 4e9
NETWORK_SECONDS, NETWORK_RATE = 2e-3, 0.6e9
#: Bytes that a worker's process holds before it trains, about.
RESERVED = 250 * MIB
#: Touching a weight to update it: bytes a second of memory.
UPDATE_RATE = 1e10


@dataclass(frozen=True, slots=True)
class Layout:
    """Who does what.

    Attributes
    ----------
    ranks : Ranks
    to : tuple of int
        The owner of each part.
    seconds : float
        Predicted, of a step.
    why : str
        What was compared.
    """

    ranks: Ranks
    to: tuple[int, ...]
    seconds: float
    why: str

    @property
    def strategy(self) -> str:
        """In words."""
        split = [f"parts split over {self.ranks.owners}"] if self.ranks.owners > 1 else []
        split += [f"samples split over {self.ranks.replicas}"] if self.ranks.replicas > 1 else []
        return ", ".join(split) or "one rank"


def choose_layout(
    sizes: TrainingSizes,
    to: Sequence[int],
    *,
    words: int,
    rounds: int,
    workers: int,
    threads: int,
    hosts: int,
    batch: int,
    budget: int | None,
    forced: str | None = None,
) -> Layout:
    """Choose by the predicted time of a step.

    Parameters
    ----------
    sizes : TrainingSizes
        Of the whole network.
    to : sequence of int
        The owner of each part, where parts are split.
    words, rounds : int
        Sent per sample, and layers with an exchange, forward and back, between those owners.
    workers, threads, hosts : int
        Of the cluster; threads of each worker.
    batch : int
        Samples of a step.
    budget : int or None
        Bytes that a worker may hold.
    forced : {"samples", "parts"}, optional

    Raises
    ------
    InputError
        What is forced is impossible.
    MemoryBudgetError
        Nothing fits.
    """
    owners = max(to) + 1
    latency, bandwidth = (SHARED_SECONDS, SHARED_RATE) if hosts == 1 else (NETWORK_SECONDS, NETWORK_RATE)
    network = sizes.network
    edges, itemsize = network.edges, network.itemsize

    def computing(ranks: Ranks) -> float:
        width = max(1, batch // ranks.replicas)
        rate = KERNEL_RATE * threads * width / (width + HALF_WIDTH)
        return 3 * edges / ranks.owners * width / rate

    def exchanging(ranks: Ranks) -> float:
        width, apart = batch / ranks.replicas, (ranks.replicas - 1) / ranks.replicas
        gradients = 2 * edges / ranks.owners * itemsize * apart
        updating = edges / ranks.owners * itemsize * (3 + 2 * sizes.moments / ranks.replicas) * (ranks.replicas > 1)
        parts = (words * width * itemsize / bandwidth + rounds * latency) if ranks.owners > 1 else 0.0
        return parts + gradients / bandwidth + 2 * latency * (ranks.replicas > 1) + updating / UPDATE_RATE

    ways = {"samples": Ranks(1, workers)}
    if owners > 1:
        ways["parts"] = Ranks(owners, workers // owners)
    if forced is not None and forced not in ways:
        raise InputError(NO_PARTS)
    found, refused = [], []
    for name, ranks in ways.items():
        try:
            _fits(sizes, ranks, batch, budget, threads)
        except MemoryBudgetError as error:
            refused.append(error)
            if name == forced:
                raise
            continue
        if forced in (None, name):
            own, others = computing(ranks), exchanging(ranks)
            why = f"{name} split: {own:.2g} s computing, {others:.2g} s exchanging"
            found.append((own + others, name, ranks, why))
    if not found:
        raise min(refused, key=lambda e: e.smallest)
    seconds, _, ranks, _ = min(found)
    return Layout(ranks, tuple(to) if ranks.owners > 1 else (0,) * len(to), seconds, "; ".join(f[3] for f in found))


def _fits(sizes: TrainingSizes, ranks: Ranks, batch: int, budget: int | None, threads: int) -> None:
    """Raise where a rank's share would not fit; its own plan decides exactly."""
    if budget is None:
        return
    network = sizes.network
    share = replace(
        network,
        layer_bytes=tuple(n // ranks.owners for n in network.layer_bytes),
        layer_edges=tuple(-(-n // ranks.owners) for n in network.layer_edges),
    )
    own = replace(sizes, network=share, ranks=ranks)
    plan_training(own, -(-batch // ranks.replicas), budget, reserved=RESERVED, threads=threads, input_bytes=0)
