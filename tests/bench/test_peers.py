"""Every contender against the reference, what is missing by name, and what is wrong refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bench_cases import JOBS, make

from dasksdnn.bench.contender import OURS, Contender, Crew, Missing
from dasksdnn.bench.peers import PEERS, contenders
from dasksdnn.bench.work import check
from dasksdnn.errors import DaskSDNNError

LIBRARIES = {"torch": "torch", "graphblas": "graphblas"}


@pytest.fixture(autouse=True)
def torch_threads():
    """PyTorch's number of threads is the process's."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "kind"), JOBS)
def test_every_contender_gives_the_reference(name, kind, threads):
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"{name} is not installed: a peer of the extra [bench]")
    work = make(kind)
    with Crew(threads) as crew:
        found = contenders(name, work, crew)
        missing = [c.why for c in found if isinstance(c, Missing)]
        if missing and name == OURS:
            pytest.skip(missing[0])
        assert not missing
        assert [c.name for c in found][: len(PEERS[name].rows[kind])] == list(PEERS[name].rows[kind])
        for contender in found:
            assert contender.threads == threads
            for _ in range(2):  # a run leaves nothing behind that the next one sees
                contender.ready()
                check(contender.name, work.compared(contender.result(contender.run())), work.expected())


@pytest.mark.parametrize(("name", "module"), LIBRARIES.items())
def test_what_is_not_installed_is_named(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"dasksdnn.bench.{PEERS[name].module}", raising=False)
    with Crew(1) as crew:
        found = contenders(name, make("forward"), crew)
    assert [c.name for c in found] == list(PEERS[name].rows["forward"])
    for missing in found:
        assert isinstance(missing, Missing)
        assert f"pip install {PEERS[name].package}" in missing.why


def test_dense_weights_too_large_are_named(monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed: a peer of the extra [bench]")
    from dasksdnn.bench import torch_peer

    monkeypatch.setattr(torch_peer, "DENSE", 1000)
    with Crew(1) as crew:
        found = contenders("torch", make("forward"), crew)
    assert [isinstance(c, Contender) for c in found] == [True, True, False]
    assert "1000 B" in found[-1].why


def test_what_a_library_does_not_do_is_left_out():
    with Crew(1) as crew:
        assert contenders("graphblas", make("backward"), crew) == []


def wrong(kind):
    work = make(kind)
    right = [array.copy() for array in work.expected()]
    return right, [array.copy() for array in right]


def test_something_else_is_an_error():
    right, found = wrong("forward")
    check("it", found, right)
    found[0][3, 5] += 0.01 * right[0].max()
    with pytest.raises(DaskSDNNError, match="it computes something else"):
        check("it", found, right)


def test_a_nan_is_an_error():
    right, found = wrong("forward")
    found[0][0, 0] = np.nan
    with pytest.raises(DaskSDNNError, match="1 of"):
        check("it", found, right)


def test_other_categories_are_an_error():
    right = [np.array([1, 5, 70_000])]
    for found in ([1, 5], [1, 5, 70_001]):
        with pytest.raises(DaskSDNNError, match="it computes something else"):
            check("it", [np.array(found)], right)
