"""What the dashboard keeps of messages."""

from __future__ import annotations

import numpy as np
import pytest

from dasksdnn.diagnostics.dashboard.state import State, Trail, ranges


def run(state, task="infer", **facts):
    state.take(
        {"kind": "run", "run": "a", "task": task, "store": "/x/net.zarr", "layers": 8, "samples": 100, **facts}, 10.0
    )
    return state.run


def crew(state, words, addresses=("tcp://a:1", "tcp://b:2")):
    n = len(words)
    parts = [[2 * i, 2 * i + 1] for i in range(n)]
    message = {
        "kind": "crew",
        "run": "a",
        "addresses": list(addresses),
        "parts": parts,
        "edges": [5] * n,
        "words": words,
    }
    state.take(message, 10.0)


def counts(
    state, worker="tcp://a:1", owner=0, now=11.0, took=((200_000, 100_000, 0),), layers=(0,), sent=(0, 7), read=4
):
    state.take(
        {"kind": "counts", "run": "a", "worker": worker, "name": worker[6], "owner": owner, "seconds": 0.5, "lanes": 1,
         "budget": 100, "resident": 50, "layers": list(layers), "took": [list(t) for t in took], "sent": list(sent), "read": read},
        now,
    )  # fmt: skip


def test_a_run_of_parts():
    state = State()
    found = run(state)
    crew(state, [[0, 3], [4, 0]])
    state.take({"kind": "batches", "run": "a", "flying": 2, "begun": 30, "done": 10}, 11.0)
    counts(state)
    counts(state, now=11.5, layers=(0, 4), took=((100_000, 0, 0), (50_000, 0, 0)))
    counts(state, "tcp://b:2", 1, sent=(5, 0))
    assert found.measured.tolist() == [[0, 14], [5, 0]]
    assert found.expected.tolist() == [[0, 90], [120, 0]]
    a, b = found.workers.values()
    assert (a.label, b.label) == ("a: parts 0-1", "b: parts 2-3")
    assert a.shares(11.6) == pytest.approx((30.0, 0.0, 0.0))
    assert a.shares(30.0) == (0.0, 0.0, 0.0)
    assert (found.span(0), found.span(4)) == ((0, 4), (4, 8))
    assert [row[3] for row in found.rectangles.rows] == [0, 0, 4, 0]
    assert found.rectangles.rows[1][-1] == pytest.approx(0.3)
    assert found.reads.rows[-1] == (1.0, 12)
    assert "parts split, 2 workers: 10 of 100 samples, running" in found.title()
    state.take({"kind": "end", "run": "a", "ended": "done"}, 14.0)
    assert found.title().endswith("30 of 100 samples, done in 4.0 s")


def test_other_owners_begin_to_count_anew():
    state = State()
    found = run(state)
    crew(state, [[0, 3], [4, 0]])
    counts(state)
    state.take({"kind": "batches", "run": "a", "flying": 1, "begun": 40, "done": 30}, 11.0)
    crew(state, [[0, 3], [4, 0]], ("tcp://c:3", "tcp://d:4"))  # another crew of such owners
    assert found.measured.sum() == 7
    crew(state, [[0, 1], [1, 0]])
    assert found.measured.sum() == 0
    assert found.expected.tolist() == [[0, 10], [10, 0]]


def test_a_run_of_training():
    state = State()
    found = run(state, "train", epochs=2, validation=10)
    crew(state, [[0, 3], [4, 0]])
    epoch = {
        "epoch": 1,
        "loss": 0.5,
        "accuracy": None,
        "validation_loss": 0.6,
        "validation_accuracy": None,
        "samples": 50,
    }
    state.take(
        {"kind": "learned", "run": "a", "epoch": 1.5, "loss": 0.4, "accuracy": None, "done": 75, "epochs": [epoch]},
        12.0,
    )
    assert found.expected.tolist() == [[0, 75 * 7 + 30], [75 * 7 + 40, 0]]
    assert list(found.learned.rows) == [(1.5, 0.4, None)]
    state.take({"kind": "end", "run": "a", "ended": "done", "epochs": [epoch, {**epoch, "epoch": 2}]}, 13.0)
    assert (found.done, len(found.epochs)) == (100, 2)
    assert "training of net.zarr" in found.title()


def test_only_the_newest_run_counts():
    state = State()
    state.take({"kind": "batches", "run": "old", "flying": 1, "begun": 1, "done": 0}, 1.0)  # before anybody watched
    assert state.run is None
    found = run(state)
    state.take({"kind": "batches", "run": "old", "flying": 1, "begun": 1, "done": 0}, 11.0)
    assert not found.batches.rows
    assert found.expected.shape == found.measured.shape == (0, 0)


def test_samples_split_has_workers_but_no_owners():
    state = State()
    found = run(state)
    counts(state, owner=4711, sent=())
    assert [w.label for w in found.workers.values()] == ["a"]
    assert found.measured.shape == (0, 0)
    assert "samples split" in found.title()


def test_a_trail_is_bounded_and_tells_what_is_new():
    trail = Trail(3)
    for i in range(5):
        trail.add(i)
    assert trail.since(0) == trail.since(2) == [(2,), (3,), (4,)]
    assert trail.since(4) == [(4,)]
    assert trail.since(5) == []


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "part 3"), ([0, 1, 2], "parts 0-2"), ([4, 0, 1], "parts 0-1, 4"), (range(0, 20, 2), "parts 0, 2, 4, ...")],
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text
    assert ranges(np.array(list(numbers))) == text
