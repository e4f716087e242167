"""The local engine: conformance, determinism across budgets, batches and threads, and memory as promised."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from conformance import CASES, InferenceConformance, close
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_input, random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.engines.inference import stream
from dasksdnn.engines.local import layers_that_map_zero_to_zero, run
from dasksdnn.engines.sinks import ArraySink
from dasksdnn.engines.weights import Weights, rungs
from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.kernels import reference
from dasksdnn.partition.start import METHODS
from dasksdnn.plan.memory import Settings
from dasksdnn.sources.datasets import as_dataset


class TestLocal(InferenceConformance):
    def run(self, store, x, memory=None):
        dataset = as_dataset(x)
        out = np.full((dataset.samples, store.widths[-1]), np.nan, store.dtype)
        result = sdnn.infer(store, dataset, out=out, memory=memory)
        return out, result.categories

    @pytest.mark.parametrize(
        ("seed", "dtype"), sorted({(s, d) for s, _ in CASES for d in ("float32", "float64")} - {*CASES})
    )
    def test_random_networks_with_the_other_precision(self, kept, seed, dtype):
        """Which other engines, that take longer, are spared."""
        self.test_random_networks_equal_the_reference(kept, seed, dtype)


def cut_at(layers, cuts):
    ends = [0, *sorted({c % layers for c in cuts} - {0}), layers]
    return tuple(pairwise(ends))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    samples=st.integers(0, 400),
    tile=st.sampled_from([16, 32, 48, 256]),
    panels=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 8), max_size=4),
    resident=st.booleans(),
    prefetch=st.booleans(),
    threads=st.integers(1, 3),
    rows=st.integers(1, 300),
    team=st.integers(1, 3),
    nparts=st.integers(1, 5),
)
def test_any_settings_give_the_same_bits(
    tmp_path_factory, seed, samples, tile, panels, cuts, resident, prefetch, threads, rows, team, nparts
):
    net = random_net(seed)
    x = random_input(seed, samples, net.widths[0])
    store = sdnn.save(
        net, tmp_path_factory.mktemp("s") / "net.zarr", partition=random_partition(net, nparts, seed), window=3000
    )
    plain = Settings(256, 1, ((0, len(net)),), True, False, 1, 10_000)
    other = Settings(
        tile, panels, cut_at(len(net), cuts), resident, prefetch, threads, max(rows, tile), min(team, threads)
    )
    outputs = []
    for chosen in (plain, other):
        out = np.full((samples, net.widths[-1]), np.nan, np.float32)
        run(store, as_dataset(x), ArraySink(out), chosen)
        outputs.append(out)
    np.testing.assert_array_equal(outputs[0].view(np.uint32), outputs[1].view(np.uint32))
    np.testing.assert_allclose(outputs[0], reference.infer(net, x), **close("float32"))


@pytest.mark.parametrize(
    ("method", "nparts"),
    [*((method, 8) for method in METHODS), ("hypergraph", 2), ("metis", 13), ("random", 13), ("block", 1)],
)
def test_the_published_categories_for_every_method(tmp_path, published, method, nparts):
    net = sdnn.graphchallenge(published, 1024, 30)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, nparts, method=method, effort="fast"))
    right = np.loadtxt(published / "neuron1024-categories_first1200.tsv", dtype=np.int64)
    x = scipy.sparse.csr_array(_published_input(published))
    outputs = []
    smallest = sdnn.plan(store, as_dataset(x), memory="8GiB").smallest  # tests before may have left more than 1 GiB
    for memory in (None, "8GiB", smallest + (64 << 20)):
        out = np.empty((1200, 1024), np.float32)
        result = sdnn.infer(store, x, out=out, memory=memory)
        np.testing.assert_array_equal(result.categories + 1, right)
        outputs.append(out)
    for out in outputs[1:]:
        np.testing.assert_array_equal(out.view(np.uint32), outputs[0].view(np.uint32))


def _published_input(published):
    dataset = sdnn.open_dataset(published / "sparse-images-1024_first1200.tsv.gz", features=1024)
    try:
        return dataset.read(0, dataset.samples)
    finally:
        dataset.close()


def test_the_kinds_of_input_and_output(tmp_path):
    import dask.array as da
    import sparse
    import zarr

    net = random_net(11, layers=3)
    x = random_input(11, 90, net.widths[0])
    store = sdnn.save(net, tmp_path / "net.zarr")
    right = np.empty((90, net.widths[-1]), np.float32)
    sdnn.infer(store, x, out=right)
    np.testing.assert_allclose(right, reference.infer(net, x), **close("float32"))
    on_disk = zarr.create_array(str(tmp_path / "x.zarr"), data=x, chunks=(20, net.widths[0]))
    np.save(tmp_path / "x.npy", x)
    kinds = [
        x,
        np.asfortranarray(x),
        x.astype(np.float64),
        scipy.sparse.csr_array(x),
        scipy.sparse.csc_array(x),
        sparse.COO.from_numpy(x),
        sparse.GCXS.from_numpy(x),
        on_disk,
        da.from_array(x, chunks=(25, 10)),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        tmp_path / "x.npy",
        str(tmp_path / "x.zarr"),
    ]
    for kind in kinds:
        lazy = sdnn.infer(store, kind)
        assert isinstance(lazy, da.Array)
        assert lazy.shape == right.shape
        assert lazy.dtype == np.float32
        np.testing.assert_array_equal(lazy.compute(), right)
        out = np.empty_like(right)
        sdnn.infer(store, kind, out=out)
        np.testing.assert_array_equal(out, right)
    into = zarr.create_array(str(tmp_path / "out.zarr"), shape=right.shape, chunks=(16, right.shape[1]), dtype="f4")
    sdnn.infer(store, x, out=into)
    np.testing.assert_array_equal(into[:], right)
    result = sdnn.infer(store, x, out=tmp_path / "y.zarr")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "y.zarr", mode="r")[:], right)
    assert result.samples == 90
    assert "categories" in repr(result)
    assert sdnn.infer(store, x, out="categories").categories.tolist() == np.flatnonzero(right.any(axis=1)).tolist()


def test_lazy_results_follow_the_batches(tmp_path):
    import dask.array as da

    net = random_net(12, layers=3)
    x = random_input(12, 100, net.widths[0])
    store = sdnn.save(net, tmp_path / "net.zarr")
    assert sdnn.infer(store, x, batch=30).chunks == ((30, 30, 30, 10), (net.widths[-1],))
    assert sdnn.infer(store, da.from_array(x, chunks=(40, -1))).chunks[0] == (40, 40, 20)
    y = sdnn.infer(store, da.from_array(x, chunks=(40, -1)))
    np.testing.assert_allclose(
        (y.sum(axis=1) + 1)[::2].compute(), (reference.infer(net, x).sum(axis=1) + 1)[::2], rtol=1e-3
    )


def test_a_lazy_result_of_a_store_that_was_replaced(tmp_path):
    net, other = random_net(12, layers=3), random_net(13, layers=2)
    lazy = sdnn.infer(sdnn.save(net, tmp_path / "net.zarr"), random_input(12, 10, net.widths[0]))
    sdnn.save(other, tmp_path / "net.zarr", overwrite=True)
    with pytest.raises(sdnn.DaskSDNNError, match="was replaced"):
        lazy.compute()


def test_bad_inputs(tmp_path):
    net = random_net(14, layers=3)
    store = sdnn.save(net, tmp_path / "net.zarr")
    x = random_input(14, 50, net.widths[0], alive=1.0)
    with pytest.raises(InputError, match=str(net.widths[0])):
        sdnn.infer(store, np.ones((5, net.widths[0] + 1), np.float32))
    bad = x.copy()
    bad[33, 0] = np.nan
    for kind in (bad, scipy.sparse.csr_array(bad)):
        with pytest.raises(InputError, match="sample 33"):
            sdnn.infer(store, kind, out=tmp_path / "y.zarr")
        assert not list(tmp_path.glob("*y.zarr*"))
    with pytest.raises(InputError, match="out has shape"):
        sdnn.infer(store, x, out=np.empty((3, 3), np.float32))
    with pytest.raises(InputError, match="threads is 0"):
        sdnn.infer(store, x, threads=0, out="categories")
    with pytest.raises(InputError, match="512MiB"):
        sdnn.infer(store, x, memory="much", out="categories")
    with pytest.raises(MemoryBudgetError, match="smallest that would is"):
        sdnn.infer(store, x, memory="20MiB")


def test_arrays_that_cannot_be_written_to(tmp_path):
    net = random_net(14, layers=3)
    store = sdnn.save(net, tmp_path / "net.zarr")
    x = random_input(14, 50, net.widths[0], alive=1.0)
    shape = (50, net.widths[-1])
    fixed = np.zeros(shape, np.float32)
    fixed.flags.writeable = False
    for out, message in (
        (np.zeros(shape, np.int8), "cannot hold"),
        (fixed, "read-only"),
        ([1], "out is list"),
        (np.zeros((1, 1), np.float32), "out has shape"),
    ):
        with pytest.raises(InputError, match=message):
            sdnn.infer(store, x, out=out)
    same = sdnn.save(sdnn.radixnet(64, 2), tmp_path / "same.zarr")
    x = np.ones((50, 64), np.float32)
    with pytest.raises(InputError, match="share memory"):
        sdnn.infer(same, x, out=x)
    for batch in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="batch is"):
            sdnn.infer(same, x, batch=batch)
    with pytest.raises(InputError, match="masked"):
        sdnn.infer(same, np.ma.masked_array(x))
    with pytest.raises(InputError, match="sample 0"):  # finite as float64, but not as the network's float32
        sdnn.infer(same, np.full((3, 64), 1e300), out="categories")


def test_a_sharded_array_is_written_a_shard_at_a_time(tmp_path):
    import zarr

    net = random_net(12, layers=3)
    x = random_input(12, 3000, net.widths[0])
    store = sdnn.save(net, tmp_path / "net.zarr")
    shape = (3000, net.widths[-1])
    out = zarr.create_array(
        str(tmp_path / "y.zarr"), shape=shape, chunks=(10, shape[1]), shards=(500, shape[1]), dtype="f4"
    )
    sdnn.infer(store, x, out=out, threads=4)
    right = np.empty(shape, np.float32)
    sdnn.infer(store, x, out=right)
    np.testing.assert_array_equal(out[:], right)


def test_the_lazy_result_of_one_network_goes_into_another(tmp_path):
    first, second = sdnn.radixnet(64, 2, bias=0.0), sdnn.radixnet(64, 3, seed=1, bias=0.0)
    stores = [sdnn.save(net, tmp_path / f"{i}.zarr") for i, net in enumerate((first, second))]
    x = random_input(1, 500, 64)
    between = sdnn.infer(stores[0], x, batch=100)
    out = np.empty((500, 64), np.float32)
    sdnn.infer(stores[1], between, out=out)
    np.testing.assert_allclose(out, reference.infer([*first, *second], x), **close("float32"))
    np.testing.assert_array_equal(sdnn.infer(stores[1], between).compute(), out)


def test_a_source_that_fails_is_named_whichever_thread_meets_it(tmp_path):
    store = sdnn.save(sdnn.radixnet(64, 2), tmp_path / "net.zarr")
    x = np.ones((60_000, 64), np.float32)
    x[31_234, 5] = np.nan
    for _ in range(5):
        with pytest.raises(InputError, match="sample 31234"):
            sdnn.infer(store, x, out="categories", threads=2)


def test_an_array_that_was_never_touched_counts(tmp_path):
    """Pages of a new array hold no memory until they are written: the plan must know of them."""
    store = sdnn.save(sdnn.radixnet(64, 2), tmp_path / "net.zarr")
    out = np.zeros((400_000, 64), np.float32)
    result = sdnn.infer(store, scipy.sparse.csr_array((400_000, 64), dtype=np.float32), out=out)
    assert result.plan.chosen.projection.reserved > out.nbytes
    assert not out.any()


def test_an_interrupt_leaves_no_output(tmp_path):
    net = sdnn.radixnet(neurons=64, layers=6, bias=0.0)
    store = sdnn.save(net, tmp_path / "net.zarr")
    seen = []

    def interrupt(event):
        seen.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(store, as_dataset(np.ones((5000, 64), np.float32)), out=tmp_path / "y.zarr", listener=interrupt)
    assert seen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.zarr"]


def test_rows_that_wait_go_to_a_scratch_file(tmp_path, monkeypatch):
    from dasksdnn.engines import sinks

    monkeypatch.setattr(sinks, "WAITING_BYTES", 1)
    net = random_net(15, layers=5, dying=0.8)
    x = random_input(15, 700, net.widths[0])
    store = sdnn.save(net, tmp_path / "net.zarr")
    monkeypatch.setattr("dasksdnn.engines.outputs.CHUNK_BYTES", 4000)
    sdnn.infer(store, x, out=tmp_path / "y.zarr")
    import zarr

    y = zarr.open_array(tmp_path / "y.zarr", mode="r")
    assert y.chunks[0] < 700
    np.testing.assert_allclose(y[:], reference.infer(net, x), **close("float32"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.zarr", "y.zarr"]


def test_which_layers_map_zero_to_zero(tmp_path):
    net = random_net(16, layers=6)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3), window=500)
    right = [
        not reference.forward_layer(layer, np.zeros((layer.weights.shape[1], 1), np.float32)).any() for layer in net
    ]
    assert layers_that_map_zero_to_zero(store).tolist() == right


@given(layers=st.integers(1, 40), cuts=st.lists(st.integers(0, 39), max_size=5))
def test_segments_cover_the_layers_and_never_cross_slabs(layers, cuts):
    chosen = Settings(16, 1, cut_at(layers, cuts), True, False, 1, 16)
    segments = rungs(chosen, layers)
    assert [k for first, last in segments for k in range(first, last)] == list(range(layers))
    for first, last in segments:
        assert any(a <= first and last <= b for a, b in chosen.slabs)


MEASURE = """
import sys
import numpy as np
import dasksdnn as sdnn
from dasksdnn import host
from dasksdnn.errors import MemoryBudgetError

class Made:
    name, block, features = "made", 512, int(sys.argv[2])
    samples = int(sys.argv[3])
    def read(self, start, stop):
        return np.random.default_rng(start).random((stop - start, self.features), dtype=np.float32)
    def block_bytes(self, samples):
        return samples * self.features * 4
    def close(self):
        pass

try:
    result = sdnn.infer(sys.argv[1], Made(), memory=int(sys.argv[4]), out=sys.argv[5])
except MemoryBudgetError as error:
    print("refused", error.smallest)
else:
    print("ran", host.peak_resident(), result.plan.projected, result.plan.budget)
"""


def measure(store, samples, memory, out):
    command = [
        sys.executable,
        "-c",
        MEASURE,
        str(store.path),
        str(store.widths[0]),
        str(samples),
        str(memory),
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    word, *numbers = done.stdout.split()
    return word, [int(n) for n in numbers]


@pytest.mark.parametrize("nparts", [1, 4])
def test_measured_is_at_most_projected_is_at_most_the_budget(tmp_path, nparts):
    net = sdnn.radixnet(neurons=4096, layers=24, weights="random", bias=0.0)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, nparts, method="block"))
    for i, budget in enumerate([1 << 30, 400 << 20, 300 << 20]):
        word, (peak, projected, allowed) = measure(store, 3000, budget, tmp_path / f"y{i}.zarr")
        assert word == "ran"
        assert peak <= projected <= allowed == budget


def test_the_smallest_stated_budget_runs_and_a_tenth_less_is_refused(tmp_path):
    store = sdnn.save(sdnn.radixnet(neurons=4096, layers=24, weights="random", bias=0.0), tmp_path / "net.zarr")
    sdnn.plan(store, 1)  # compiles what is not in the cache yet: compiling takes memory of its own
    word, (smallest,) = measure(store, 500, 1 << 20, tmp_path / "y.zarr")
    assert word == "refused"
    smallest += 1 << 20  # what the process holds before the run varies by some pages
    word, (peak, projected, allowed) = measure(store, 500, smallest, tmp_path / "y.zarr")
    assert word == "ran"
    assert peak <= projected <= allowed
    assert measure(store, 500, int(0.9 * smallest), tmp_path / "z.zarr")[0] == "refused"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.zarr", "y.zarr"]


@pytest.mark.slow
def test_sixteen_thousand_neurons_within_512_mebibytes(tmp_path):
    """63 million edges, 8,000 dense samples: the run's peak as the system counts it, its output that of an unlimited run."""
    import zarr

    net = sdnn.radixnet(neurons=16384, layers=120, weights="random", bias=0.0)
    store = sdnn.save(net, tmp_path / "net.zarr")
    word, (peak, projected, _) = measure(store, 8000, 512 << 20, tmp_path / "tight.zarr")
    assert word == "ran"
    assert peak <= projected <= 512 << 20
    _, (peak, projected, _) = measure(store, 8000, 16 << 30, tmp_path / "free.zarr")
    assert peak <= projected <= 1.3 * peak
    tight, free = (zarr.open_array(tmp_path / f"{name}.zarr", mode="r") for name in ("tight", "free"))
    for start in range(0, 8000, 500):
        np.testing.assert_array_equal(
            tight[start : start + 500].view(np.uint32), free[start : start + 500].view(np.uint32)
        )


@pytest.mark.parametrize("slabs", [2, 5])
def test_reading_ahead_goes_on(tmp_path, slabs):
    """While a slab is in use the next one is being read, every time; never more than two are held."""
    net = random_net(1, layers=10)
    store = sdnn.save(net, tmp_path / "net.zarr")
    chosen = Settings(16, 1, cut_at(10, [k * 10 // slabs for k in range(1, slabs)]), False, True, 1, 16)
    weights = Weights(store, chosen)
    for _ in range(2):
        for index, (first, last) in enumerate(chosen.slabs):
            assert weights.slab(first).first == first
            weights.prefetch(last % 10)
            assert set(weights._held) == {index, (index + 1) % slabs}
    assert weights.loads == (2 if slabs == 2 else 2 * slabs + 1)
    weights.close()
