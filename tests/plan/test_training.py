"""Plans of training: places on the tape that never collide while they count, budgets kept, more memory never slower."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasksdnn.errors import MemoryBudgetError
from dasksdnn.plan.memory import Sizes
from dasksdnn.plan.training import (
    TrainingSettings,
    TrainingSizes,
    check_slabs,
    plan_training,
    projected_training,
    segments_of,
    tile_of,
)

MIB = 1 << 20


def sizes(layers=40, width=4096, degree=32, moments=2, **more):
    edges = (width * degree,) * layers
    network = Sizes((width,) * (layers + 1), 4, tuple(6 * n + width * 28 for n in edges), edges)
    return TrainingSizes(network, 2, moments, 8 * MIB, **more)


def plan(budget, batch=64, **more):
    return plan_training(sizes(**more), batch, budget, reserved=200 * MIB, threads=2, input_bytes=10 * MIB)


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=20),
    st.integers(1, 9),
    st.sets(st.integers(1, 18)),
)
def test_what_is_kept_has_a_place_of_its_own(widths, every, cuts):
    layers = len(widths) - 1
    ends = [0, *sorted(c for c in cuts if c < layers), layers]
    slabs = tuple(pairwise(ends))
    settings = TrainingSettings(16, 1, slabs, len(slabs), 0, every, False, 1)
    at, rows = settings.places(tuple(widths))
    segments = settings.segments()
    assert [a for a, _ in segments] == [0, *(b for _, b in segments[:-1])]
    assert segments[-1][1] == layers
    assert [pair for slab in slabs for pair in segments_of(settings, slab)] == list(segments)
    assert all(b - a <= every for a, b in segments)
    kept = {0, *(b for _, b in segments)}
    taken = {k: set(range(at[k], at[k] + widths[k])) for k in range(layers + 1)}
    for first, last in segments:  # a segment's own panels, and all that are kept, stand side by side
        together = [taken[k] for k in kept | set(range(first, last + 1))]
        assert len(set().union(*together)) == sum(map(len, together))
    assert max(place for panel in taken.values() for place in panel) < rows
    assert check_slabs(settings, layers)
    assert TrainingSettings.from_dict(settings.as_dict()) == settings


def test_all_stays_where_there_is_room():
    found = plan(4 << 30)
    assert found.strategy == "weights stay, every activation is kept"
    assert found.step_bytes == 0
    assert found.projected <= 4 << 30


@pytest.mark.parametrize("batch", [1, 48, 64, 1000])
def test_less_memory_streams_and_is_never_quicker(batch):
    smallest = plan(1 << 40, batch).smallest
    before = None
    for budget in (smallest, smallest + 20 * MIB, smallest + 100 * MIB, smallest * 2, 1 << 40):
        found = plan(budget, batch)
        assert found.projected <= budget
        if before is not None:
            assert found.step_seconds <= before
        before = found.step_seconds
    with pytest.raises(MemoryBudgetError, match=f"smallest that would is {smallest // MIB} MiB"):
        plan(smallest - MIB, batch)


def test_wide_batches_go_in_rounds_that_hold_the_gradient():
    found = plan(plan(1 << 40, 4096).smallest, 4096)
    assert found.settings.samples < 4096
    assert found.settings.held
    assert "rounds a step" in found.strategy
    assert not plan(1 << 40, 4096).settings.held


def test_clipping_holds_the_gradient():
    settings = plan(4 << 30, clipping=True).settings
    assert settings.held
    more, less = (
        projected_training(sizes(clipping=held), replace(settings, held=held), reserved=0, input_bytes=0)
        for held in (True, False)
    )
    assert more > less


@pytest.mark.parametrize(
    ("samples", "width", "tile"), [(1, 64, 16), (40, 64, 48), (256, 1024, 128), (256, 256, 256), (256, 65536, 64)]
)
def test_tiles(samples, width, tile):
    assert tile_of(Sizes((width, width), 4, (1,), (1,)), samples) == tile
