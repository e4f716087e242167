"""A comparison's rows, ratios and report, on work small enough for a test."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from bench_cases import make

from dasksdnn.bench import cases, peers, report
from dasksdnn.bench.compare import compare
from dasksdnn.bench.contender import OURS, Contender
from dasksdnn.bench.machine import Bandwidth
from dasksdnn.bench.work import on_pattern
from dasksdnn.errors import DaskSDNNError, InputError

LIMITS = {1: Bandwidth(1e9, 1e9), 2: Bandwidth(2e9, 2e9)}


@pytest.fixture(scope="module")
def found():
    return compare("small", make("forward"), ["scipy"], [1, 2], 3, LIMITS)


def test_rows(found):
    expected = [(name, threads) for threads in (1, 2) for name in (OURS, "SciPy", "SciPy, tiles of 64")]
    assert [(row.name, row.threads) for row in found.rows] == expected
    ours = {row.threads: row for row in found.rows if row.name == OURS}
    for row in found.rows:
        assert len(row.timing.seconds) == 3
        assert row.ratio == pytest.approx(row.timing.median / ours[row.threads].timing.median)
        assert row.rate == pytest.approx(found.multiply_adds / row.timing.median)
        assert row.fma_share == pytest.approx(row.rate / found.peaks[row.threads])
        assert row.bandwidth_share > 0
    assert ours[1].scaling == 1
    best = found.best_peer(2)
    assert best.timing.median == min(r.timing.median for r in found.rows if r.threads == 2 and r.name != OURS)


def test_the_report(found):
    record = json.loads(json.dumps(found.as_dict()))
    assert record["title"] == "small"
    assert record["multiply_adds"] == make("forward").multiply_adds
    assert [c["name"] for c in record["contenders"]] == [row.name for row in found.rows]
    assert record["contenders"][1]["times_ours"] == found.rows[1].ratio
    assert set(record["contenders"][0]["seconds"]) == {"median", "least", "most", "all"}
    assert set(record["best_peer"]) == set(record["fma_peak"]) == {"1", "2"}
    assert record["missing"] == []


def test_the_table(found):
    rows = list(report.table(found))
    assert {len(row) for row in rows} == {len(report.HEADER)}
    assert "x the best peer" in rows[0][-1]
    assert sum(row[-1].startswith("best peer") for row in rows) == 2
    assert "x one thread" in rows[3][-1]


def test_a_missing_peer_is_in_the_table_and_the_report(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphblas", None)
    monkeypatch.delitem(sys.modules, "dasksdnn.bench.graphblas_peer", raising=False)
    found = compare("small", make("forward"), ["graphblas"], [1], 1)
    assert [m["name"] for m in found.as_dict()["missing"]] == ["GraphBLAS"]
    assert list(report.table(found))[-1][0] == "GraphBLAS"
    assert found.best_peer(1) is None
    assert found.rows[0].bandwidth_share is None


def test_a_wrong_contender_is_refused(monkeypatch):
    def adapter(name, work, crew):
        return [Contender("wrong", 1, lambda: None, lambda _: [np.zeros_like(a) for a in work.expected()])]

    monkeypatch.setattr("dasksdnn.bench.compare.contenders", adapter)
    with pytest.raises(DaskSDNNError, match="wrong computes something else"):
        compare("small", make("forward"), [], [1], 1)


def test_contenders_are_held_against_each_other_too(monkeypatch):
    """The reference runs some of the samples of a challenge: the other categories have to be those of the first."""
    work = make("challenge")
    right = work.expected()[0]
    unchecked = np.setdiff1d(np.arange(work.x.shape[0]), work.checked)[:1]

    def adapter(name, work, crew):
        lists = [right, np.sort(np.append(right, unchecked))]
        return [Contender(f"c{i}", 1, lambda: None, lambda _, c=c: [c]) for i, c in enumerate(lists)]

    monkeypatch.setattr("dasksdnn.bench.compare.contenders", adapter)
    with pytest.raises(DaskSDNNError, match="c1 computes something else"):
        compare("small", work, [], [1], 1)


def test_every_case_can_be_made():
    made = cases.cases(cases.NAMES, [64, 128], 4, far=1 << 12)
    assert {case.name for case in made} == set(cases.NAMES)
    assert [case.neurons for case in made if case.name == "community"] == [128]
    for case in made:
        if case.name != "parts":
            work = case.make()
            assert work.multiply_adds > 0
            assert work.least_bytes(2) < work.least_bytes(4)


def test_radixnet_weights_are_random_unless_they_are_the_challenges():
    made = {case.name: case.make() for case in cases.cases(["radixnet", "constant"], [64], 4)}
    assert len(np.unique(made["radixnet"].layers[0].weights.data)) > 1000
    assert (made["constant"].layers[0].weights.data == 1 / 16).all()
    assert not made["radixnet"].layers[0].bias.any()
    assert made["constant"].layers[0].bias.all()


def test_one_sample_reads_much_and_positions_of_twins_once():
    twins, random = (case.make() for case in cases.cases(["width1"], [64], 4, far=1 << 16))
    assert twins.multiply_adds * 6 >= 1 << 16
    assert random.least_bytes(2) == random.multiply_adds * 6
    assert twins.least_bytes(2) < twins.multiply_adds * 5


@pytest.mark.parametrize("change", [{"only": ["fast"]}, {"samples": 0}, {"neurons": [1000]}, {"neurons": [16]}])
def test_unknown_work(change):
    with pytest.raises(InputError):
        cases.cases(**{"only": ["radixnet"], "neurons": [64], "samples": 4, **change})


def test_products_on_a_pattern():
    rng = np.random.default_rng(0)
    delta, x = rng.random((5, 300)), rng.random((7, 300))
    rows, columns = rng.integers(0, 5, 3000), rng.integers(0, 7, 3000)
    right = (delta @ x.T)[rows, columns]
    np.testing.assert_allclose(on_pattern(rows, columns, delta, x), right)
    np.testing.assert_allclose(on_pattern(rows, columns, delta, x, slice(10, 50)), right[10:50])


def test_the_registry_names_ours_first():
    assert next(iter(peers.PEERS)) == OURS
