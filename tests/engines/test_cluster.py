"""Inference on a Dask cluster, samples split: conformance, kinds of input and output, and the shape of the work."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from conformance import InferenceConformance
from networks import random_input, random_net

import dasksdnn as sdnn
from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.sources.datasets import as_dataset


class TestStreaming(InferenceConformance):
    @pytest.fixture(autouse=True)
    def _client(self, cluster):
        self.client = cluster

    def run(self, store, x, memory=None):
        dataset = as_dataset(x)
        out = np.full((dataset.samples, store.widths[-1]), np.nan, store.dtype)
        result = sdnn.infer(store, dataset, out=out, memory=memory, client=self.client, batch=50)
        return out, result.categories


class TestLazy(InferenceConformance):
    @pytest.fixture(autouse=True)
    def _client(self, cluster):
        self.client = cluster

    def run(self, store, x, memory=None):
        lazy = sdnn.infer(store, x, memory=memory, client=self.client, batch=50)
        out = self.client.compute(lazy, sync=True)
        return out, np.flatnonzero(out.any(axis=1))


def local(store, x):
    out = np.empty((x.shape[0], store.widths[-1]), store.dtype)
    return out, sdnn.infer(store, x, out=out)


def bits(y):
    return np.asarray(y).view(np.uint32)


@pytest.fixture
def stored(tmp_path):
    net = random_net(11, layers=3)
    return sdnn.save(net, tmp_path / "net.zarr"), random_input(11, 90, net.widths[0])


def test_the_kinds_of_input_and_output(tmp_path, cluster, stored, monkeypatch):
    import dask.array as da
    import sparse
    import zarr

    store, x = stored
    right, by_one = local(store, x)
    width = x.shape[1]
    np.save(tmp_path / "x.npy", x)
    zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(20, width))
    monkeypatch.chdir(tmp_path)
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=x, chunks=(20, width))
    kinds = [
        x,
        x.astype(np.float64),
        scipy.sparse.csr_array(x),
        sparse.COO.from_numpy(x),
        zarr.open_array("x.zarr", mode="r"),
        in_memory,
        da.from_array(x, chunks=(25, 10)),
        da.from_array(x, chunks=(25, -1)).map_blocks(sparse.COO.from_numpy),
        np.load("x.npy", mmap_mode="r"),
        np.load("x.npy", mmap_mode="r")[:],
        "x.npy",
        "x.zarr",
    ]
    for kind in kinds:
        out = np.empty_like(right)
        # Batches of whole blocks where these are sparse: workers would compile what cuts them for half a minute.
        whole = isinstance(getattr(kind, "_meta", None), sparse.COO)
        result = sdnn.infer(store, kind, out=out, client=cluster, batch=25 if whole else 20)
        np.testing.assert_array_equal(bits(out), bits(right))
        np.testing.assert_array_equal(result.categories, by_one.categories)
        assert result.computed_edges > 0
        assert result.peak_rss > 10 << 20
    for name, chunks in (("a.zarr", (16, right.shape[1])), ("b.zarr", (90, right.shape[1]))):
        into = zarr.create_array(name, shape=right.shape, chunks=chunks, dtype="f4")
        sdnn.infer(store, "x.npy", out=into, client=cluster, batch=1)
        np.testing.assert_array_equal(bits(into[:]), bits(right))
    result = sdnn.infer(store, "x.zarr", out="y.zarr", client=cluster)
    np.testing.assert_array_equal(bits(zarr.open_array("y.zarr", mode="r")[:]), bits(right))
    assert result.plan.cluster.workers == 2
    with cluster.as_current():
        found = sdnn.infer(store, x, out="categories", engine="dask").categories
    np.testing.assert_array_equal(found, by_one.categories)


def test_what_does_not_go_together(tmp_path, cluster, stored):
    import zarr

    store, x = stored
    with pytest.raises(InputError, match="engine is 'spark'"):
        sdnn.infer(store, x, engine="spark")
    with pytest.raises(InputError, match="needs a client"):
        sdnn.infer(store, x, engine="dask")
    with pytest.raises(InputError, match="leave one of them out"):
        sdnn.infer(store, x, engine="local", client=cluster)
    with pytest.raises(InputError, match="for engines of many processes"):
        sdnn.infer(store, x, strategy="samples")
    with pytest.raises(InputError, match="strategy is 'both'"):
        sdnn.infer(store, x, client=cluster, strategy="both", out="categories")
    with pytest.raises(InputError, match="parts"):
        sdnn.infer(store, x, client=cluster, strategy="parts")
    with pytest.raises(InputError, match="parts cannot be split"):  # of one part
        sdnn.infer(store, x, client=cluster, strategy="parts", out="categories")
    shape = (90, store.widths[-1])
    lost = zarr.create_array(zarr.storage.MemoryStore(), shape=shape, chunks=shape, dtype="f4")
    with pytest.raises(InputError, match="no worker can write"):
        sdnn.infer(store, x, client=cluster, out=lost)
    with pytest.raises(MemoryBudgetError, match="smallest that would is"):
        sdnn.infer(store, x, client=cluster, out=tmp_path / "y.zarr", memory="20MiB")
    with pytest.raises(MemoryBudgetError, match="smallest that would is"):
        sdnn.infer(store, x, client=cluster, memory="20MiB")
    with pytest.raises(MemoryBudgetError, match="give at most"):
        sdnn.infer(store, x, client=cluster, out="categories", memory="1GiB")
    assert not list(tmp_path.glob("*y.zarr*"))


@pytest.mark.parametrize("kind", ["sent", "read", "graph"])
def test_a_sample_at_fault_is_named_as_the_user_counts(tmp_path, cluster, stored, kind):
    import dask.array as da

    store, x = stored
    x[73, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    given = {"sent": x, "read": tmp_path / "x.npy", "graph": da.from_array(x, chunks=(30, -1))}[kind]
    with pytest.raises(InputError, match="sample 73 "):
        sdnn.infer(store, given, out=tmp_path / "y.zarr", client=cluster, batch=20)
    assert not list(tmp_path.glob("*y.zarr*"))


def test_a_lazy_result_is_a_dask_array_like_any_other(tmp_path, cluster, stored):
    import dask.array as da
    import zarr

    store, x = stored
    right, _ = local(store, x)
    with cluster.as_current():
        y = sdnn.infer(store, da.from_array(x, chunks=(25, -1)), engine="dask")
        np.testing.assert_array_equal(bits(y.compute()), bits(right))
        np.testing.assert_array_equal(bits(y[13:60:3, ::2].compute()), bits(right[13:60:3, ::2]))
        np.testing.assert_array_equal((y.max(axis=1) > 0).sum().compute(), (right.max(axis=1) > 0).sum())
        y.to_zarr(str(tmp_path / "y.zarr"))
        both = da.concatenate([y, y + 1]).persist()
        np.testing.assert_array_equal(both[90:].compute(), right + 1)
    np.testing.assert_array_equal(bits(zarr.open_array(tmp_path / "y.zarr", mode="r")[:]), bits(right))
    np.testing.assert_array_equal(bits(y.compute(scheduler="threads")), bits(right))


def test_the_graph_does_not_grow_with_the_dataset(tmp_path, cluster, stored):
    store, _ = stored
    np.save(tmp_path / "x.npy", random_input(1, 3000, store.widths[0]))
    most = []

    def listener(event):
        most.append(cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    sdnn.infer(store, tmp_path / "x.npy", out="categories", client=cluster, batch=30, listener=listener)
    assert len(most) == 100
    assert 1 <= max(most) <= 20


def loads():
    """Slabs that this process has loaded for the session that it holds."""
    from dasksdnn.engines import session

    return session._held.weights.loads


@pytest.mark.parametrize("processes", [True, False])
def test_a_worker_loads_weights_once_and_runs_a_batch_with_all_its_threads(tmp_path, stored, new_cluster, processes):
    store, _ = stored
    x = random_input(1, 400, store.widths[0])
    np.save(tmp_path / "x.npy", x)
    # A worker of this process counts as its own all that the tests before have left here.
    client = new_cluster(workers=1, threads=2, processes=processes, memory="1GiB" if processes else "6GiB")
    out = np.empty((400, store.widths[-1]), np.float32)
    result = sdnn.infer(store, tmp_path / "x.npy", out=out, client=client, batch=20)
    assert result.plan.cluster.threads == result.plan.settings.threads == 2
    assert set(client.run(loads).values()) == {1}
    np.testing.assert_array_equal(bits(out), bits(local(store, x)[0]))


def test_an_interrupt_leaves_nothing(tmp_path, cluster, stored, monkeypatch):
    from dasksdnn.engines.cluster import samples

    monkeypatch.setattr("dasksdnn.engines.outputs.CHUNK_BYTES", 8000)

    store, _ = stored
    np.save(tmp_path / "x.npy", random_input(1, 3000, store.widths[0]))

    def interrupt(event):
        assert event.done < event.total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sdnn.infer(store, tmp_path / "x.npy", out=tmp_path / "y.zarr", client=cluster, batch=50, listener=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.zarr", "x.npy"]
    assert set(cluster.run(lambda: len(samples._active)).values()) == {0}
    assert cluster.run_on_scheduler(lambda dask_scheduler: [k for k in dask_scheduler.tasks if "sdnn-infer" in k]) == []


def test_the_plan_of_a_cluster(cluster, stored):
    store, _ = stored
    plan = sdnn.plan(store, 1000, client=cluster)
    assert (plan.cluster.workers, plan.cluster.threads, plan.cluster.hosts) == (2, 1, 1)
    assert plan.budget == int(0.6 * (1 << 30))
    assert plan.projected <= plan.budget
    assert plan.chosen.strategy == "samples split"  # one part
    assert "samples split" in repr(plan)


def rss(client):
    """The most that each worker's process has held, in bytes, as the system counts it."""
    from dasksdnn.host import peak_resident

    return list(client.run(peak_resident).values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["graph", "file"])
def test_fifty_times_the_memory_of_the_workers_streams_through(tmp_path, new_cluster, kind):
    """Two workers of 512 MiB each, 50 GiB of samples: made chunk by chunk, or read from a file full of holes."""
    import dask.array as da

    width, samples = 4096, 50 * (1 << 30) // (4096 * 4)
    store = sdnn.save(sdnn.radixnet(width, 2, bias=0.0), tmp_path / "net.zarr")
    sdnn.plan(store, 1)  # compiles what is not in the cache yet: compiling takes memory of its own
    if kind == "graph":
        x = da.random.default_rng(1).random((samples, width), chunks=(250, -1), dtype=np.float32)
    else:
        x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (samples, width))
        x[::1000] = 1
    client = new_cluster(workers=2, memory="512MiB")
    most = {"tasks": 0, "memory": 0}

    def listener(event):
        most["tasks"] = max(most["tasks"], client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    result = sdnn.infer(store, x, out="categories", client=client, listener=listener)
    expected = samples if kind == "graph" else -(-samples // 1000)
    assert result.categories.size == expected
    peaks = rss(client)
    print(
        f"{kind}: {samples * width * 4 / 2**30:.0f} GiB through 2 workers of 512 MiB in {result.seconds:.0f} s, at most "
        f"{most['tasks']} tasks, workers at most {max(peaks) / 2**20:.0f} MiB (budget {result.plan.budget / 2**20:.0f})"
    )
    assert most["tasks"] < 1000
    assert max(peaks) <= result.plan.budget
    assert sum(client.run(lambda dask_worker: len(dask_worker.data.slow)).values()) == 0  # nothing was spilled
