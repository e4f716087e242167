"""Chunks of a lazy result share one plan and one set of weights in a process, and nothing of it stays for long."""

from __future__ import annotations

import subprocess
import sys
import threading

import dask
import numpy as np
import pytest
from clusters import until
from networks import random_input, random_net

import dasksdnn as sdnn
from dasksdnn.engines import session


@pytest.fixture
def loads(monkeypatch):
    """Slabs that were loaded, as their first layers."""
    from dasksdnn.engines import weights

    seen, real = [], weights.load

    def load(store, first, *rest):
        seen.append((store.path.name, first))
        return real(store, first, *rest)

    monkeypatch.setattr(weights, "load", load)
    session.release()
    yield seen
    session.release()


def stored(tmp_path, seed=12, name="net.zarr"):
    net = random_net(seed, layers=3)
    return sdnn.save(net, tmp_path / name), random_input(seed, 100, net.widths[0])


def outputs(store, x):
    out = np.empty((len(x), store.widths[-1]), np.float32)
    sdnn.infer(store, x, out=out)
    return out


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_weights_are_loaded_once_for_all_chunks(tmp_path, loads, scheduler):
    store, x = stored(tmp_path)
    right = outputs(store, x)
    del loads[:]
    lazy = sdnn.infer(store, x, batch=10)
    with dask.config.set(scheduler=scheduler, num_workers=3):
        np.testing.assert_array_equal(lazy.compute().view(np.uint32), right.view(np.uint32))
        np.testing.assert_array_equal(lazy[35:57:3, ::2].compute(), right[35:57:3, ::2])
    assert loads == [("net.zarr", 0)]


def test_what_makes_room_for_what(tmp_path, loads):
    store, x = stored(tmp_path)
    other, y = stored(tmp_path, 13, "other.zarr")
    with dask.config.set(scheduler="synchronous"):
        sdnn.infer(store, x[:50]).compute()
        sdnn.infer(store, x[:20]).compute()
        assert len(loads) == 1
        sdnn.infer(store, x).compute()  # a larger chunk than the plan was for
        assert len(loads) == 2
        sdnn.infer(store, x, memory="4GiB").compute()
        assert len(loads) == 3
        sdnn.infer(other, y).compute()
        assert [name for name, _ in loads] == ["net.zarr"] * 3 + ["other.zarr"]
        assert session._held is not None
        outputs(other, y)  # a run of its own
        assert session._held is None


def test_an_idle_session_is_dropped(tmp_path, loads, monkeypatch):
    monkeypatch.setattr(session, "IDLE", 0.2)
    monkeypatch.setattr(session, "_timer", None)
    store, x = stored(tmp_path)
    sdnn.infer(store, x, batch=30).compute()
    assert session._held is not None
    until(lambda: session._held is None, 10)
    until(lambda: not any("sdnn-read" in thread.name for thread in threading.enumerate()), 10)


def test_a_chunk_that_fails_leaves_nothing(tmp_path, loads):
    store, x = stored(tmp_path)
    x[61, 0] = np.nan
    with dask.config.set(scheduler="synchronous"), pytest.raises(sdnn.DaskSDNNError, match="sample 1 "):
        sdnn.infer(store, x, batch=60)[60:].compute()
    assert session._held is None
    np.testing.assert_array_equal(sdnn.infer(store, x, batch=60)[:60].compute(), outputs(store, x[:60]))


def test_how_many_chunks_dask_runs_at_a_time():
    for chosen, count in (({"num_workers": 5}, 5), ({"scheduler": "synchronous"}, 1), ({"scheduler": "processes"}, 1)):
        with dask.config.set(chosen):
            assert session.scheduler().concurrency == count


def test_chunks_that_wait_or_are_done_have_room(tmp_path, loads):
    store, x = stored(tmp_path)
    chunk = 50 * (store.widths[0] + store.widths[-1]) * 4
    held = []
    for threads in (1, 4):
        session.release()
        with dask.config.set(num_workers=threads, scheduler="threads"):
            sdnn.infer(store, x, batch=50)[:50].compute()
        assert session._held is not None
        held.append(session._held.plan.chosen.projection.output)
    assert held[1] - held[0] == 3 * chunk


MEASURE = """
import sys
import dask, dask.array as da, numpy as np
import dasksdnn as sdnn
from dasksdnn import host
x = da.random.default_rng(1).random((12000, 4096), chunks=(1500, -1), dtype=np.float32)
y = sdnn.infer(sys.argv[1], x, memory=sys.argv[2])
with dask.config.set(num_workers=3):
    y.max(axis=1).max().compute()
print(host.peak_resident())
"""


def test_chunks_stay_within_the_budget_together(tmp_path):
    store = sdnn.save(sdnn.radixnet(neurons=4096, layers=24, weights="random", bias=0.0), tmp_path / "net.zarr")
    sdnn.plan(store, 1)  # compiles what is not in the cache yet: compiling takes memory of its own
    command = [sys.executable, "-c", MEASURE, str(store.path), "480MiB"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 480 << 20
