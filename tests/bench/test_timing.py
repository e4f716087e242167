"""Interleaving: every contender has one turn a round, none always after the same other, and only `run` is timed."""

from __future__ import annotations

from dasksdnn.bench.contender import Contender, Crew, share, spans
from dasksdnn.bench.timing import MOST_RUNS, Timing, interleave


def watched(name, log):
    """So short that a turn is one run that is not timed, and `MOST_RUNS` that are."""
    return Contender(name, 1, lambda: log.append(name), lambda _: [], lambda: log.append(f"ready {name}"))


def test_every_round_has_everyone_once():
    log = []
    timings = interleave([watched(name, log) for name in "abc"], 8, pause=0)
    assert [len(timing.seconds) for timing in timings] == [8, 8, 8]
    ran = [name for name in log if len(name) == 1][:: 1 + MOST_RUNS]
    rounds = [ran[i : i + 3] for i in range(0, 24, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_everyone_is_made_ready_just_before_its_run():
    log = []
    interleave([watched(name, log) for name in "ab"], 3, pause=0)
    assert all(log[i] == f"ready {log[i + 1]}" for i in range(0, len(log), 2))


def test_median_and_range():
    timing = Timing((3.0, 1.0, 2.0, 10.0))
    assert (timing.median, timing.least, timing.most) == (2.5, 1.0, 10.0)
    assert timing.as_dict() == {"median": 2.5, "least": 1.0, "most": 10.0, "all": [3.0, 1.0, 2.0, 10.0]}


def test_a_crew_keeps_order_and_tidies_up(tmp_path):
    class Held:
        left = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.left += 1

    for threads in (1, 3):
        held = Held()
        with Crew(threads) as crew:
            assert crew.keep(held) is held
            assert crew.each(lambda n: n * n, range(10)) == [n * n for n in range(10)]
            assert not held.left
        assert held.left == 1


def test_samples_are_cut_without_remainder():
    assert spans(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert share(10, 4) == 3
