"""From a run's options and a rank's share to the plan of its training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dasksdnn import host
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.loading import positions_dtype, sizes_of
from dasksdnn.engines.shares import Share, whole
from dasksdnn.engines.transport import gather
from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.plan.training import (
    Ranks,
    TrainingPlan,
    TrainingSettings,
    TrainingSizes,
    check_slabs,
    plan_training,
    projected_training,
)
from dasksdnn.store.reader import Store
from dasksdnn.training.options import Options


def sizes_for(store: Store, share: Share, options: Options, ranks: Ranks) -> TrainingSizes:
    """What a plan must know of a share."""
    outputs = 2 * store.widths[-1] if share.owners > 1 else 0
    return TrainingSizes(
        sizes_of(store, share),
        positions_dtype(store).itemsize,
        len(options.rule().moments),
        max(w.arrays["data"].nbytes for w in store.manifest.windows),
        options.dropout > 0,
        options.clip_norm is not None,
        options.evolve is not None,
        ranks,
        max(max(c.words, int(c.received.size)) for c in share.crossings) + outputs,
    )


def same_counts(grid: Grid, samples: int, validation: int) -> None:
    """Refuse ranks that were given different numbers of samples: they would wait for each other.

    Raises
    ------
    InputError
        At each rank.
    """
    counts = gather(grid.transport, (samples, validation))
    if len(set(counts)) > 1:
        raise InputError(f"ranks have different numbers of samples and of validation's: {counts}: give all the same")


def settings_alone(
    store: Store, options: Options, batch: int, plan: TrainingPlan, reserved: int, held: int
) -> TrainingSettings:
    """Settings with which one rank of many can hold, or stream, all parts to look at them, in the room of its plan."""
    sizes = replace(sizes_for(store, whole(store), options, Ranks()), moments=0, clipping=False, evolving=False)
    now = host.resident()
    budget = now + plan.budget - reserved
    return plan_training(sizes, batch, budget, reserved=now, threads=plan.settings.threads, input_bytes=held).settings


def taken_over(
    record: dict[str, Any],
    sizes: TrainingSizes,
    batch: int,
    budget: int,
    reserved: int,
    held: int,
    threads: int,
    store: Store,
) -> TrainingPlan:
    """The plan of the checkpoint's run, where the budget holds it: another might give other bits."""
    settings = replace(TrainingSettings.from_dict(record["plan"]), threads=threads)
    if not check_slabs(settings, len(store)):
        raise InputError(f"{store.path}: its checkpoint's plan is of another network: train without resume")
    need = projected_training(sizes, settings, reserved=reserved, input_bytes=held)
    if need > budget:
        raise MemoryBudgetError(
            f"a memory budget of {host.format_bytes(budget)} cannot work: the plan of the checkpoint in {store.path} needs "
            f"{host.format_bytes(need)}; allow that, or train without resume",
            need,
        )
    return TrainingPlan(settings, batch, budget, need, need, 0.0, 0, 0, sizes.ranks)


def densities(store: Store) -> list[float]:
    """Stored weights of each layer, as a share of all that it could have."""
    edges = store.block_nonzeros().sum(axis=1).tolist()
    return [n / (a * b) for n, a, b in zip(edges, store.widths[:-1], store.widths[1:], strict=True)]
