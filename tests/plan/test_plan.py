"""The plan: projections are pure and add up, choices honour the budget, and what cannot work is refused with a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasksdnn.errors import MemoryBudgetError
from dasksdnn.plan.memory import Settings, Sizes, cut_slabs, projected_mem, slab_bytes
from dasksdnn.plan.schedule import NARROWEST, plan_inference, team_for, tile_for

MIB = 1 << 20


def sizes(layers=24, width=4096, each=3 * MIB):
    return Sizes((width,) * (layers + 1), 4, (each,) * layers, (each // 6,) * layers)


def choose(what, budget, samples=3000, **other):
    given = {
        "reserved": 150 * MIB,
        "threads": 2,
        "caches": (MIB, 32 * MIB),
        "input_bytes": lambda n: n * what.widths[0] * 8,
        "output_bytes": lambda s: s.threads * 4 * MIB,
        "rows": 64,
    }
    return plan_inference(what, samples, budget, **{**given, **other})


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 300))
def test_slabs_cover_the_layers_within_the_limit(layer_bytes, limit):
    what = Sizes((1,) * (len(layer_bytes) + 1), 4, tuple(layer_bytes), tuple(layer_bytes))
    slabs = cut_slabs(what, limit)
    assert [k for first, last in slabs for k in range(first, last)] == list(range(len(layer_bytes)))
    for slab in slabs:
        assert slab_bytes(what, slab) <= limit or slab[1] - slab[0] == 1
    assert sum(slab_bytes(what, slab) for slab in slabs) == what.weights


def test_a_projection_counts_each_thing_once():
    what = sizes()
    settings = Settings(64, 10, cut_slabs(what, 12 * MIB), False, True, 2, 64)
    made = projected_mem(what, settings, reserved=100, input_bytes=10, output_bytes=1)
    assert made.panels == (10 + 2) * 4096 * 64 * 4
    assert made.weights == 2 * 12 * MIB
    assert (made.reserved, made.input, made.output) == (100, 10, 1)
    assert made.total == 111 + made.panels + made.weights + made.reading + made.slack
    stay = projected_mem(
        what, Settings(64, 10, settings.slabs, True, True, 2, 64), reserved=0, input_bytes=0, output_bytes=0
    )
    assert stay.weights == what.weights


@given(st.integers(180, 3000), st.integers(0, 100_000))
def test_a_plan_fits_its_budget_or_is_refused(budget, samples):
    least = choose(sizes(), 1 << 40, samples).smallest
    if least > budget * MIB:
        with pytest.raises(MemoryBudgetError, match="the smallest that would is") as refused:
            choose(sizes(), budget * MIB, samples)
        assert f"{refused.value.smallest // MIB} MiB" in str(refused.value)
        assert choose(sizes(), refused.value.smallest, samples).projected <= refused.value.smallest
        return
    plan = choose(sizes(), budget * MIB, samples)
    assert plan.projected <= budget * MIB
    assert plan.smallest <= budget * MIB
    assert plan.settings.batch <= max(samples, 1) + plan.settings.tile - 1
    assert plan.chosen in plan.candidates


def test_weights_stay_where_they_fit_and_stream_where_not():
    assert choose(sizes(), 2048 * MIB).chosen.strategy == "weights stay"
    tight = choose(sizes(layers=240), 512 * MIB, 30_000)
    assert tight.chosen.strategy.startswith("weights stream")
    assert tight.chosen.bytes_read > tight.settings.batch
    more = choose(sizes(layers=240), 700 * MIB, 30_000)
    assert more.settings.batch > tight.settings.batch
    assert more.chosen.bytes_read < tight.chosen.bytes_read


def test_panels_are_narrow_for_wide_layers_and_few_samples():
    caches = (MIB, 32 * MIB)
    wide = Sizes((65536, 65536), 4, (1,), (1,))
    assert tile_for(sizes(width=1024), 10_000, 2, caches) == 128
    assert tile_for(sizes(width=4096), 10_000, 2, caches) == 64
    assert tile_for(sizes(width=16384), 10_000, 2, caches) == 64
    assert tile_for(wide, 10_000, 2, caches) == 48
    assert tile_for(wide, 10_000, 2, (MIB, 128 * MIB)) == 64
    assert tile_for(Sizes((65536, 65536), 8, (1,), (1,)), 10_000, 2, caches) == 16
    assert tile_for(sizes(width=1024), 40, 2, caches) == NARROWEST
    assert tile_for(sizes(width=1024), 1, 8, caches) == NARROWEST


@pytest.mark.parametrize(
    ("samples", "threads", "team"),
    [(10_000, 2, 1), (17, 2, 1), (16, 2, 2), (1, 8, 8), (0, 2, 2), (64, 8, 2), (40, 8, 2), (1, 1, 1)],
)
def test_rows_are_shared_where_samples_are_few(samples, threads, team):
    assert team_for(samples, threads) == team
    chosen = choose(sizes(), 1 << 40, samples, threads=threads).settings
    assert (chosen.team, chosen.workers) == (team, threads // team)


def test_the_table_says_what_was_considered_and_chosen():
    plan = choose(sizes(), 260 * MIB)
    text = repr(plan)
    assert text.count("chosen") == 1
    assert "over budget" in text
    assert len(text.splitlines()) == len(plan.candidates) + 2
    record = plan.as_dict()
    assert record["projected_bytes"] == plan.projected
    assert record["settings"]["tile"] == plan.settings.tile


def test_a_refusal_says_what_is_held_already():
    with pytest.raises(MemoryBudgetError, match="150 MiB of it is held by the process already"):
        choose(sizes(), 100 * MIB)
