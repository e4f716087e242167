"""How a cluster's strategies are priced and chosen, and how large batches are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.plan.cluster import MOST_SECONDS, PARTS, SAMPLES, Cluster, PartsSplit, batch_size, choose
from dasksdnn.plan.memory import Sizes
from dasksdnn.plan.schedule import KERNEL_RATE, plan_inference

MIB = 1 << 20
#: 120 layers of 65,536 neurons: more weights than a small worker holds.
LARGE = Sizes((65536,) * 121, 4, (13 * MIB,) * 120, (65536 * 32,) * 120)
SMALL = Sizes((1024,) * 13, 4, (200 * 1024,) * 12, (1024 * 32,) * 12)


def worker(sizes, samples, budget):
    return plan_inference(
        sizes,
        samples,
        budget,
        reserved=200 * MIB,
        threads=1,
        caches=(MIB, 32 * MIB),
        input_bytes=lambda n: n * sizes.widths[0] * 8,
        output_bytes=lambda settings: 4 * MIB,
        rows=64,
    )


def chosen(sizes, samples, cluster, parts, batch=1000, forced=None):
    share = worker(sizes, -(-samples // cluster.workers), cluster.budget)
    return choose(
        sizes, samples, cluster, worker(sizes, batch, cluster.budget), share.chosen.seconds, batch, parts, forced
    )


FEW = PartsSplit(owners=2, words=100_000, tasks=400, share=0.5, batch=1000, projected=900 * MIB)


def test_weights_that_stay_on_every_worker_are_not_worth_an_exchange():
    plan = chosen(LARGE, 60_000, Cluster(2, 1, 2, 8 << 30), FEW)
    assert plan.worker.settings.resident
    assert plan.chosen.strategy == SAMPLES
    assert {c.strategy for c in plan.candidates} == {SAMPLES, PARTS}


def test_weights_that_stay_only_where_parts_are_split_decide_for_it():
    cluster = Cluster(2, 1, 1, 350 * MIB)
    parts = replace(FEW, words=1000, tasks=50, projected=300 * MIB)
    plan = chosen(LARGE, 60_000, cluster, parts, batch=200)
    assert not plan.worker.settings.resident
    assert plan.chosen.strategy == PARTS
    assert plan.batch == parts.batch
    assert chosen(LARGE, 60_000, cluster, replace(parts, projected=2 << 30), batch=200).chosen.strategy == SAMPLES


def test_the_network_between_hosts_costs_more_than_memory_within_one():
    prices = {}
    for hosts in (1, 2):
        plan = chosen(LARGE, 60_000, Cluster(2, 1, hosts, 8 << 30), FEW)
        prices[hosts] = next(c.seconds for c in plan.candidates if c.strategy == PARTS)
    assert prices[2] > prices[1]


def test_a_forced_strategy_is_honoured_or_refused():
    cluster = Cluster(2, 1, 2, 8 << 30)
    plan = chosen(LARGE, 60_000, cluster, FEW, forced=PARTS)
    assert plan.chosen.strategy == PARTS
    assert plan.forced
    assert "forced" in repr(plan)
    with pytest.raises(InputError, match="parts cannot be split"):
        chosen(LARGE, 60_000, cluster, None, forced=PARTS)
    with pytest.raises(MemoryBudgetError, match="allow more, or add workers"):
        chosen(LARGE, 60_000, cluster, replace(FEW, projected=9 << 30), forced=PARTS)


def test_the_plan_as_data_and_as_text():
    plan = chosen(SMALL, 1000, Cluster(2, 1, 1, 1 << 30), None, batch=500)
    facts = plan.as_dict()
    assert (facts["strategy"], facts["workers"], facts["batch_of_a_task"]) == (SAMPLES, 2, 500)
    assert facts["projected_bytes"] == plan.projected <= plan.budget == 1 << 30
    assert "1,000 samples in batches of 500 on 2 workers of 1 threads and 1024 MiB each" in repr(plan)
    assert "nothing is exchanged" in repr(plan)


@given(
    samples=st.integers(0, 10**7),
    workers=st.integers(1, 100),
    edges=st.integers(1, 10**10),
    unit=st.integers(1, 5000),
    block=st.integers(1, 5000),
    in_flight=st.integers(1, 10**5),
    most=st.integers(1, 10**7),
)
def test_batches_are_whole_chunks_within_bounds(samples, workers, edges, unit, block, in_flight, most):
    size = batch_size(samples, workers, 1, edges, units=(unit, block), in_flight=in_flight, most=most)
    assert size >= 1
    assert size % unit == 0
    assert size <= max(unit, most)
    assert size <= max(unit, in_flight, MOST_SECONDS * KERNEL_RATE / edges)


def test_every_worker_has_several_batches_of_work_that_takes_long():
    assert batch_size(6000, 2, 1, 16384 * 32 * 120, units=(32, 1), most=6000) == 736
    assert batch_size(4000, 2, 1, 1024 * 32 * 24, units=(512, 1), most=4000) == 1536  # little work: one each is enough
