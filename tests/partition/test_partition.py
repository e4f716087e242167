"""`partition` from outside: valid, balanced, repeatable owners from every method, and clear errors."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_cases import PUBLISHED, brute_force, heaviest_first, network, patterns, published, random_pattern

import dasksdnn
from dasksdnn.errors import InputError, PartitionerError
from dasksdnn.network import Network
from dasksdnn.partition import partition as module
from dasksdnn.partition import partitioners
from dasksdnn.partition.native import Helper
from dasksdnn.partition.partition import Partition, partition
from dasksdnn.partition.partitioners import Task, metis
from dasksdnn.partition.start import METHODS, Start

pytestmark = pytest.mark.usefixtures("little_effort")  # but where a level is named
LIBRARIES = ["hypergraph", "mtkahypar", "kahypar", "metis"]


def small(seed=0, density=0.1):
    rng = np.random.default_rng(seed)
    return [random_pattern(rng, *shape, density) for shape in ((40, 30), (50, 40), (20, 50))]


def check(layers, found, nparts, epsilon):
    widths = [layers[0].shape[1], *(len(p) for p in layers)]
    assert [len(part) for part in found.owner] == widths
    assert all(part.dtype == np.int16 and not part.flags.writeable for part in found.owner)
    assert all(0 <= part.min() <= part.max() < nparts for part in found.owner)
    volume, messages, send, imbalance = brute_force(layers, found.owner, nparts)
    assert (found.volume, found.messages, found.metrics.send.tolist()) == (sum(volume), sum(messages), send)
    for pattern, worst in zip(layers, imbalance, strict=True):
        nonzeros = pattern.sum(axis=1)
        if nonzeros.sum():
            permitted = heaviest_first(nonzeros, nparts) * nparts / nonzeros.sum()
            assert worst <= max(1 + epsilon, permitted) + 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nparts", [1, 2, 7, 50])
def test_every_method(method, nparts):
    layers = small()
    found = partition(network(layers), nparts, method=method, seed=3)
    check(layers, found, nparts, 0.03)
    again = partition(network(layers), nparts, method=method, seed=3)
    assert all((a == b).all() for a, b in zip(found.owner, again.owner, strict=True))


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(layers=patterns(), nparts=st.integers(2, 5), seed=st.integers(0, 2**40))
def test_odd_networks(method, layers, nparts, seed):
    nparts = min(nparts, max(len(p) for p in layers))
    check(layers, partition(network(layers), nparts, method=method, seed=seed), nparts, 0.03)


FAILURES = {
    "single-pin nets only": np.eye(12),
    "no nonzeros": np.zeros((12, 12)),
    "identical rows": np.ones((12, 12)),
    "fewer rows than parts": np.eye(3, 12),
    "one heavy row": np.vstack([np.ones((1, 12)), np.eye(11, 12)]),
    "one column": np.ones((12, 1)),
    "duplicate columns": np.kron(np.eye(4), np.ones((3, 3))),
}


@pytest.mark.parametrize("method", LIBRARIES)
@pytest.mark.parametrize("case", FAILURES)
def test_what_libraries_fail_on(method, case):
    pattern = FAILURES[case].astype(bool)
    tail = np.ones((8, len(pattern)), bool)
    layers = (
        [pattern, tail] if case != "fewer rows than parts" else [tail[:, :1].repeat(12, 1), pattern[:, :8], tail[:, :3]]
    )
    check(layers, partition(network(layers), 5, method=method), 5, 0.03)


def test_one_part_is_immediate():
    layers = small()
    found = partition(network(layers), 1)
    assert (found.volume, found.messages, found.imbalance, found.max_send) == (0, 0, 1.0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_in_another_process(method):
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_partition; print(test_partition.digest({method!r}))
"""
    env = os.environ | {"PYTHONPATH": str(Path(dasksdnn.__file__).parents[1]), "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-P", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest(method)


def digest(method):
    """Of what starts from all libraries, and of what is refined; not of what a cache holds."""
    how = {"method": method, "seed": 11, "cache": False}
    found = [partition(network(small()), 6, effort=effort, **how) for effort in ("none", "fast")]
    return hashlib.sha256(b"".join(part.tobytes() for each in found for part in each.owner)).hexdigest()


def test_seeds_differ():
    one, other = (partition(network(small()), 4, method="random", seed=s) for s in (0, 1))
    assert any((a != b).any() for a, b in zip(one.owner, other.owner, strict=True))


def test_blocks_are_consecutive():
    found = partition(network([np.eye(12)]), 4, method="block")
    assert found.owner[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert found.volume == 0


def test_communities_are_found():
    rng = np.random.default_rng(5)
    mixed = [rng.permutation(64) for _ in range(3)]
    truth = np.kron(np.eye(4), np.ones((16, 16)))
    layers = [truth[np.ix_(mixed[k + 1], mixed[k])].astype(bool) for k in range(2)]
    for method in LIBRARIES:
        assert partition(network(layers), 4, method=method).volume == 0


def test_each_layer_is_loaded_once_and_reported():
    held, loads, events = network(small()), [], []

    def load(k):
        loads.append(k)
        return held[k]

    partition(Network(held.widths, load), 3, method="block", listener=events.append)
    assert loads == [0, 1, 2]
    assert [(e.task, e.done, e.total, e.unit) for e in events] == [("partition", k, 3, "layers") for k in (1, 2, 3)]


def test_the_helper_is_gone_after_an_error(monkeypatch):
    pids = []

    def fails(self, *arguments, **arrays):
        self._start()
        pids.append(self.pid)
        raise PartitionerError("mtkahypar was killed by SIGSEGV; use another method")

    monkeypatch.setattr(Helper, "call", fails)
    with pytest.raises(PartitionerError, match="layer 1: mtkahypar was killed by SIGSEGV"):
        partition(network(small()), 3, method="mtkahypar")
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def dying(*libraries):
    """`Helper.call` with libraries that die."""
    call = Helper.call

    def dies(self, library, *arguments, **arrays):
        if library in libraries:
            raise PartitionerError(f"{library} was killed by SIGSEGV; use another method, or another nparts or seed")
        return call(self, library, *arguments, **arrays)

    return dies


@pytest.mark.parametrize(
    ("libraries", "notes"),
    [
        (["mtkahypar"], ["from layer 1 on without mtkahypar: mtkahypar was killed by SIGSEGV"]),
        (["metis"], ["from layer 1 on without metis: metis was killed by SIGSEGV"]),
        (
            ["metis", "mtkahypar"],
            [
                "from layer 1 on without metis: metis was killed by SIGSEGV",
                "from layer 1 on without mtkahypar: mtkahypar was killed by SIGSEGV",
                "from layer 1 on rows start in blocks",
            ],
        ),
    ],
)
def test_a_library_that_dies_is_done_without_and_named(monkeypatch, libraries, notes):
    layers = small()
    monkeypatch.setattr(Helper, "call", dying(*libraries))
    found = partition(network(layers), 3)
    check(layers, found, 3, 0.03)
    assert list(found.notes) == notes
    assert all(note in repr(found) for note in notes)
    assert not found.repeatable


def test_an_interrupt_waits_for_no_library(monkeypatch):
    """METIS is at work on one layer, and would be asked for another."""
    similar = partitioners._similarity

    def slow(*arguments):
        time.sleep(0.5)
        return similar(*arguments)

    def interrupted(event):
        raise KeyboardInterrupt

    monkeypatch.setattr(partitioners, "_similarity", slow)
    started = []
    monkeypatch.setattr(Helper, "_start", lambda self: started.append(self) or time.sleep(30))
    monkeypatch.setattr(partitioners, "mtkahypar", lambda task: interrupted(None))
    before = time.monotonic()
    start = Start(network(small()), "hypergraph", 3, 0.03, 0, 600.0, True)
    start._libraries.reverse()  # Mt-KaHyPar first, while METIS has not asked its helper yet
    with pytest.raises(KeyboardInterrupt), start:
        list(start.layers())
    assert not started
    assert time.monotonic() - before < 20


def test_an_epsilon_without_bound():
    layers = small()
    for method in ("hypergraph", "metis", "block"):
        found = partition(network(layers), 3, method=method, epsilon=1e30, effort="fast")
        assert found.epsilon == 1e30
        check(layers, found, 3, 1e30)


def test_metis_survives_a_column_that_everyone_reads(monkeypatch):
    monkeypatch.setattr(partitioners, "GRAPH_PAIRS", 3000)
    pattern = np.kron(np.eye(4), np.ones((16, 16)))
    pattern[:, 0] = 1
    weights = network([pattern])[0].weights
    with Helper() as helper:
        owner = metis(Task(weights, None, 4, 0.1, 0, helper))
    assert all(np.unique(owner[i : i + 16]).size == 1 for i in range(0, 64, 16))


def test_given_owners():
    layers = small()
    found = partition(network(layers), 5, method="block")
    given_back = Partition.from_owner(network(layers), [part.tolist() for part in found.owner])
    assert (given_back.nparts, given_back.volume, given_back.method) == (5, found.volume, "given")
    assert given_back.epsilon is None
    assert "given" in repr(given_back)
    unsigned = Partition.from_owner(network(layers), [part.astype(np.uint64) for part in found.owner], nparts=9)
    assert (unsigned.nparts, unsigned.volume) == (9, found.volume)


@pytest.mark.parametrize(
    ("owner", "nparts", "message"),
    [
        ([[0, 1, 1]], None, "1 owner arrays for 1 layers"),
        ([[0, 1], [0, 1, 1]], None, "input owners have shape"),
        ([[0, 1, -1], [0, 1, 1]], None, "must be parts 0 to 1"),
        ([[0, 1, 1], [0, 1, 2]], 2, "must be parts 0 to 1"),
        ([[0, 1, 1], [0, 1, 0.5]], None, "owner.1. has dtype float64"),
        ([[[0, 1, 1]], [0, 1, 1]], None, "owner.0. has dtype int64 and shape"),
        ([[0, 1, 1], [0, 1, 10**9]], None, "use fewer"),
        ([[0, 1, 1], [0, 1, 1]], 0, "nparts 0 is too small"),
        ([], None, "0 owner arrays"),
    ],
)
def test_bad_owners(owner, nparts, message):
    with pytest.raises(InputError, match=message):
        Partition.from_owner(network([np.eye(3)]), owner, nparts)


@pytest.mark.parametrize(
    ("nparts", "how", "message"),
    [
        (0, {}, "nparts 0 is too small: give at least 1"),
        (2.0, {}, "nparts 2.0 is not a whole number"),
        (51, {}, "nparts 51 is more than the 50 rows of the widest layer"),
        (2, {"epsilon": -0.1}, "epsilon -0.1 is not usable"),
        (2, {"epsilon": float("nan")}, "epsilon nan is not usable"),
        (2, {"epsilon": float("inf")}, "epsilon inf is not usable"),
        (2, {"seed": -1}, "seed -1 is too small"),
        (2, {"seed": "x"}, "seed 'x' is not a whole number"),
        (2, {"effort": "much"}, "unknown effort 'much': use one of none, fast, default, best"),
        (2, {"objective": "peace"}, "unknown objective 'peace': use one of volume, time"),
        (2, {"objective": "time", "latency": -1.0}, "latency -1.0 is not usable"),
        (2, {"objective": "time", "latency": 1e300, "bandwidth": 1e300}, "make a message cost inf words"),
        (2, {"objective": "time", "bandwidth": float("nan")}, "bandwidth nan is not usable"),
        (2, {"objective": "time", "batch": 0}, "batch 0 is too small"),
        (2, {"time_limit": -1}, "time_limit -1 is not usable"),
        (2, {"timeout": 0}, "timeout 0 is not usable"),
        (2, {"timeout": float("inf")}, "timeout inf is not usable"),
        (
            2,
            {"method": "magic"},
            "unknown method 'magic': use one of hypergraph, mtkahypar, kahypar, metis, block, random",
        ),
    ],
)
def test_bad_arguments(nparts, how, message):
    with pytest.raises(InputError, match=message):
        partition(network(small()), nparts, **how)


def test_many_parts_need_wider_owners():
    assert module._compact([np.zeros(3, np.int64)], 32767)[0].dtype == np.int16
    assert module._compact([np.zeros(3, np.int64)], 32768)[0].dtype == np.int32


def test_repr_says_what_matters():
    found = partition(network(small()), 4, method="random", seed=9)
    for text in ("'random'", "4 parts", "epsilon 0.03", "seed 9", f"volume {found.volume:,}", "messages", "imbalance"):
        assert text in repr(found)


#: Words a sample of the published network's first 24 layers, by nparts: what each level has to reach, and what it gave.
FAST = {2: (9_700, 9_297), 4: (14_900, 14_524), 8: (19_150, 17_830), 16: (22_700, 21_763), 32: (28_950, 28_911)}
DEFAULT = {2: (9_200, 9_016), 4: (14_350, 14_241), 8: (18_150, 17_695), 16: (22_000, 21_768), 32: (28_900, 28_871)}


def reaches(nparts, effort, wanted, golden):
    found = partition(published(24), nparts, effort=effort)
    assert found.volume <= min(wanted, golden * 1.01)
    assert found.imbalance <= 1.03


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published network's files are not here")
@pytest.mark.parametrize("nparts", [8, 32, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 16))])
def test_the_published_network(nparts):
    reaches(nparts, "fast", *FAST[nparts])


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published network's files are not here")
@pytest.mark.parametrize("nparts", DEFAULT)
def test_the_published_network_by_default(nparts, monkeypatch):
    monkeypatch.undo()  # the level as it is
    reaches(nparts, "default", *DEFAULT[nparts])
