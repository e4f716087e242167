"""Each rule against a plain loop over rows, and what it draws against what it must depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from dasksdnn.errors import InputError
from dasksdnn.training.evolution import (
    CANDIDATES,
    MORE,
    draw_key,
    drop_share,
    merge,
    prune,
    rewire,
    target_density,
)

KEY = draw_key(1, 2, 3)


def layer(seed, rows=None, columns=None, density=None):
    """Weights with many ties, zeros, empty rows and full ones."""
    rng = np.random.default_rng(seed)
    rows, columns = rows or int(rng.integers(1, 20)), columns or int(rng.integers(1, 20))
    there = rng.random((rows, columns)) < (rng.random((rows, 1)) * 1.2 - 0.1 if density is None else density)
    row, column = np.nonzero(there)
    values = rng.integers(-4, 5, row.size).astype(np.float32) / 4
    return scipy.sparse.coo_array((values, (row, column)), shape=there.shape).tocsr()


def entries(weights):
    """{(row, column): value}"""
    coo = weights.tocoo()
    return dict(zip(zip(coo.row.tolist(), coo.col.tolist(), strict=True), coo.data.tolist(), strict=True))


def kept(weights, change):
    return {place for place, stays in zip(entries(weights), change.kept.tolist(), strict=True) if stays}


def grown(change):
    return list(zip(change.rows.tolist(), change.columns.tolist(), strict=True))


def by_row(weights):
    rows = [[] for _ in range(weights.shape[0])]
    for (row, column), value in entries(weights).items():
        rows[row].append((abs(value), column))
    return rows


def dropped_by_hand(weights, share, widths):
    """What each row drops, where it may read `widths[row]` columns."""
    dropped = set()
    for i, row in enumerate(by_row(weights)):
        count = min(round(share * len(row)), widths[i] - len(row), max(len(row) - 1, 0))
        dropped |= {(i, column) for _, column in sorted(row)[:count]}
    return dropped


seeds = st.integers(0, 10**6)
shares = st.sampled_from([0, 0.1, 0.3, 0.5, 0.75, 1])


# -- schedules


def test_target_density():
    found = [target_density(0.9, 0.1, epoch, 2, 6) for epoch in range(9)]
    sparsity = [0.9 + (0.1 - 0.9) * (1 - t / 4) ** 3 for t in range(5)]  # as in the paper, for what is not there
    np.testing.assert_allclose(found, [0.9, 0.9, *(1 - s for s in sparsity), 0.1, 0.1])
    assert (target_density(1, 0.2, 4, 5, 5), target_density(1, 0.2, 5, 5, 5)) == (1, 0.2)


def test_drop_share():
    found = [drop_share(0.3, epoch, 4) for epoch in range(6)]
    np.testing.assert_allclose(found, [0.3, 0.15 + 0.15 * math.sqrt(0.5), 0.15, 0.15 - 0.15 * math.sqrt(0.5), 0, 0])
    assert drop_share(0.3, 0, 0) == 0.3


# -- pruning


@settings(deadline=None)
@given(seeds, st.floats(0.001, 1))
def test_pruning(seed, density):
    weights = layer(seed)
    size = weights.shape[0] * weights.shape[1]
    largest = {(i, max(row)[1]) for i, row in enumerate(by_row(weights)) if row}
    spare = sorted((abs(value), place) for place, value in entries(weights).items() if place not in largest)
    excess = max(0, weights.nnz - round(density * size))
    change = prune(weights, density)
    assert kept(weights, change) == entries(weights).keys() - {place for _, place in spare[:excess]}
    assert change.grown == 0
    assert change.kept.sum() == min(weights.nnz, max(round(density * size), len(largest)))


# -- dropping and growing


@settings(deadline=None)
@given(seeds, shares)
def test_rows_keep_their_number_of_entries(seed, share):
    weights = layer(seed)
    change = rewire(weights, share, KEY)
    dropped = dropped_by_hand(weights, share, [weights.shape[1]] * weights.shape[0])
    assert kept(weights, change) == entries(weights).keys() - dropped
    new = grown(change)
    assert new == sorted(set(new))
    assert not set(new) & entries(weights).keys()  # nothing comes back at once
    assert all(0 <= column < weights.shape[1] for _, column in new)
    np.testing.assert_array_equal(np.diff(merge(weights, change).indptr), np.diff(weights.indptr))
    assert change.dropped == change.grown == len(dropped)


def test_what_is_drawn():
    weights = layer(5, 40, 30, 0.3)
    change = rewire(weights, 0.4, KEY)
    again, others = rewire(weights, 0.4, KEY), [draw_key(1, 2, 4), draw_key(1, 3, 3), draw_key(0, 2, 3)]
    assert grown(change) == grown(again)
    assert all(grown(change) != grown(rewire(weights, 0.4, key)) for key in others)
    # Rows draw by their number alone: other rows may be anything.
    replaced = scipy.sparse.vstack([layer(6, 25, 30), weights[25:]], format="csr")
    assert [e for e in grown(rewire(replaced, 0.4, KEY)) if e[0] >= 25] == [e for e in grown(change) if e[0] >= 25]
    alike = scipy.sparse.vstack([weights[:1]] * 40, format="csr")
    assert len({tuple(c for r, c in grown(rewire(alike, 0.4, KEY)) if r == i) for i in range(40)}) > 30


def test_draws_are_uniform():
    """Three of the free columns of each row: every one, and every pair, as often as chance has it."""
    rows, free = 20000, np.array([0, 2, 3, 7, 8, 9])
    pattern = np.zeros((1, 10), np.float32)
    pattern[0, [1, 4, 5, 6]] = 1
    weights = scipy.sparse.csr_array(np.repeat(pattern, rows, axis=0))
    change = rewire(weights, 0.75, KEY)
    met = np.zeros((rows, 10), np.int64)
    met[change.rows, change.columns] = 1
    together = (met.T @ met)[np.ix_(free, free)]
    assert change.grown == met.sum() == 3 * rows
    for probability, counts in ((1 / 2, np.diag(together)), (1 / 5, together[~np.eye(6, dtype=bool)])):
        assert np.abs(counts - rows * probability).max() < 5 * math.sqrt(rows * probability * (1 - probability))


@settings(deadline=None)
@given(seeds, shares, st.booleans())
def test_panels(seed, share, wide):
    """Panels of all columns change nothing, whoever has the rows; narrow ones hold what grows, and stop what cannot."""
    weights = layer(seed)
    rng = np.random.default_rng([seed, 1])
    owner = rng.integers(0, 3, weights.shape[0])
    panels, widths = [], np.zeros(weights.shape[0], np.int64)
    for part in range(3):
        rows = np.flatnonzero(owner == part)
        read = np.isin(np.arange(weights.shape[1]), weights[rows].indices)
        columns = np.flatnonzero(read | wide | (rng.random(read.size) < 0.2))
        panels.append((rows, columns))
        widths[rows] = columns.size
    change = rewire(weights, share, KEY, panels=panels)
    assert kept(weights, change) == entries(weights).keys() - dropped_by_hand(weights, share, widths)
    assert all(column in panels[owner[row]][1] for row, column in grown(change))
    assert grown(change) == sorted(set(grown(change)) - entries(weights).keys())
    np.testing.assert_array_equal(np.diff(merge(weights, change).indptr), np.diff(weights.indptr))
    if wide:
        assert grown(change) == grown(rewire(weights, share, KEY))


@settings(deadline=None)
@given(seeds, shares, st.booleans())
def test_growing_by_the_gradient(seed, share, panelled):
    """Where all free columns are candidates, those of the largest gradients grow; of equal ones, the first."""
    weights = layer(seed)
    slope = np.random.default_rng([seed, 2]).integers(-3, 4, weights.shape) / 2
    panels = None
    if panelled:
        parts = (np.arange(i, weights.shape[0], 2) for i in range(2))
        panels = [(rows, np.arange(weights.shape[1])) for rows in parts]
    assert weights.shape[1] < MORE + CANDIDATES
    change = rewire(weights, share, KEY, panels=panels, gradient=lambda rows, columns: slope[rows, columns])
    dropped = dropped_by_hand(weights, share, [weights.shape[1]] * weights.shape[0])
    expected = []
    for i in range(weights.shape[0]):
        free = [(-abs(slope[i, j]), j) for j in range(weights.shape[1]) if (i, j) not in entries(weights)]
        count = sum(row == i for row, _ in dropped)
        expected += sorted((i, j) for _, j in sorted(free)[:count])
    assert kept(weights, change) == entries(weights).keys() - dropped
    assert grown(change) == expected


def test_candidates_are_few():
    weights = layer(3, 30, 500, 0.02)
    asked = []

    def gradient(rows, columns):
        asked.append((rows, columns))
        return columns

    change = rewire(weights, 0.5, KEY, gradient=gradient)
    ((rows, columns),) = asked
    drops = np.bincount(change.rows, minlength=30)
    np.testing.assert_array_equal(np.bincount(rows, minlength=30), np.where(drops, CANDIDATES * drops + MORE, 0))
    places = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert places == sorted(set(places) - entries(weights).keys())
    for i in range(30):  # the largest gradient is that of the last column
        assert (
            change.columns[change.rows == i].tolist()
            == columns[rows == i][columns[rows == i].size - drops[i] :].tolist()
        )


@pytest.mark.parametrize("values", [lambda n: np.ones(n + 1), lambda n: np.full(n, np.nan), lambda n: 1.0])
def test_a_gradient_that_cannot_be(values):
    with pytest.raises(InputError, match="one finite number for each"):
        rewire(layer(3, 30, 50, 0.2), 0.5, KEY, gradient=lambda rows, columns: values(rows.size))


@settings(deadline=None)
@given(seeds, st.sampled_from([np.int32, np.int64]))
def test_merging(seed, index):
    weights = layer(seed)
    weights.indices, weights.indptr = weights.indices.astype(index), weights.indptr.astype(index)
    change = rewire(weights, 0.5, KEY)
    merged = merge(weights, change)
    place = {edge: e for e, edge in enumerate(entries(weights))}
    expected = {edge: place[edge] for edge in kept(weights, change)} | dict.fromkeys(grown(change), weights.nnz)
    assert list(entries(merged).items()) == sorted(expected.items())
    assert merged.has_canonical_format
    taken = np.append(weights.data, 0)[merged.data]
    assert all(value == entries(weights).get(edge, 0) for edge, value in zip(entries(merged), taken, strict=True))
