"""A pattern that changes is a new generation: whole or not at all, the same for any partition, with moments that follow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from moments import Moments
from networks import random_input, random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import CorruptStoreError, InputError
from dasksdnn.kernels import reference
from dasksdnn.partition.metrics import recount
from dasksdnn.store import checkpoints, sweeping, writer
from dasksdnn.store.checkpoints import changing, commit, generations, replace_manifest, writing
from dasksdnn.store.encoding import write_array
from dasksdnn.store.manifest import canonical_digest
from dasksdnn.store.reader import open_store
from dasksdnn.training import rewriting
from dasksdnn.training.evolution import draw_key, prune, rewire
from dasksdnn.training.rewriting import evolve, with_attributes
from dasksdnn.training.stored import moments_of, read_layer

MOMENTS = ("data_first", "bias_first", "data_second", "bias_second")
FACTOR = {"data": 1, "bias": 1, "data_first": 2, "bias_first": 3, "data_second": 4, "bias_second": 5}


def slope(k, rows, columns):
    """A gradient that any edge has, large and small."""
    return np.sin(rows * 12.9898 + columns * 78.233 + k).astype(np.float32)


#: How each rule is asked, in turn for a store and for one layer.
METHODS = {
    "magnitude": ({"target": 0.1}, lambda k, w: prune(w, 0.1)),
    "set": ({}, lambda k, w: rewire(w, 0.3, draw_key(5, 2, k))),
    "rigl": (
        {"share": 0.5, "gradient": slope},
        lambda k, w: rewire(w, 0.5, draw_key(5, 2, k), gradient=lambda r, c: slope(k, r, c)),
    ),
}


def network(dtype="float32"):
    return random_net(7, layers=4, widest=40, dtype=dtype)


def trained(net, path, nparts, **how):
    """A store with moments that are multiples of what they belong to, at generation 1."""
    store = sdnn.save(net, path, partition=random_partition(net, nparts) if nparts > 1 else None, **how)
    return commit(
        store,
        lambda w, name: store.array(w, name[:4]).read() * store.dtype.type(FACTOR[name]),
        extra=MOMENTS,
        training={"epoch": 1},
    )


def layers(net):
    return [(dict(layer.weights.todok().items()), layer.bias.tolist(), layer.weights.nnz) for layer in net]


def expected(net, rule):
    """Weights by (row, column) after a rule, made of plain dicts."""
    made = []
    for k, layer in enumerate(net):
        change, coo = rule(k, layer.weights), layer.weights.tocoo()
        entries = zip(coo.row.tolist(), coo.col.tolist(), coo.data.tolist(), change.kept.tolist(), strict=True)
        weights = {(row, column): value for row, column, value, stays in entries if stays}
        weights |= dict.fromkeys(zip(change.rows.tolist(), change.columns.tolist(), strict=True), 0.0)
        made.append(weights)
    return made


def entries(weights):
    coo = weights.tocoo()
    return dict(zip(zip(coo.row.tolist(), coo.col.tolist(), strict=True), coo.data.tolist(), strict=True))


def content(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# -- what is evolved


@pytest.mark.parametrize("nparts", [1, 2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_for_any_partition(tmp_path, method, nparts):
    net = network()
    how, rule = METHODS[method]
    store = trained(net, tmp_path / "net.zarr", nparts, window=1500)
    events = []
    new, evolved = evolve(
        store, method, epoch=2, seed=5, **how, training=lambda evolved: {"epoch": 2}, listener=events.append
    )
    weights = expected(net, rule)
    assert [entries(layer.weights) for layer in new.network] == weights
    for layer, old in zip(new.network, net, strict=True):
        np.testing.assert_array_equal(layer.bias, old.bias)
    assert sdnn.verify(new.path) == []
    assert (new.generation, new.training, generations(new.path)) == (2, {"epoch": 2}, [1, 2])
    assert [e.done for e in events if e.task == "evolve"] == [1, 2, 3, 4]
    # What is counted.
    assert evolved.edges_before == net.edges
    assert evolved.edges_after == new.edges == sum(map(len, weights))
    assert evolved.edges_after - evolved.edges_before == evolved.grown - evolved.dropped
    assert evolved.dropped > 50
    assert (evolved.grown > 50) is (method != "magnitude")
    counted = recount(new.network, new.owner, nparts)
    assert (evolved.volume_before, evolved.volume_after) == (store.comm_plan().volume, counted.volume)
    if nparts > 1:
        names = ("volume", "messages", "max_send", "imbalance")
        assert {n: new.provenance[n] for n in names} == {n: getattr(counted, n) for n in names}
    else:
        assert new.provenance == store.provenance == {"method": "none"}
    # What the earlier generation is.
    old = open_store(store.path, 1)
    assert layers(old.network) == layers(net)
    assert (old.edges, old.provenance) == (store.edges, store.provenance)


@pytest.mark.parametrize(("method", "dtype"), [("magnitude", "float64"), ("set", "float32"), ("rigl", "float64")])
def test_moments_follow_their_entries(tmp_path, method, dtype):
    store = trained(network(dtype), tmp_path / "net.zarr", 3, window=1500)
    new, _ = evolve(store, method, epoch=2, seed=5, **METHODS[method][0])
    assert moments_of(new) == MOMENTS
    for k, layer in enumerate(new.network):
        stored = read_layer(new, k, MOMENTS)
        np.testing.assert_array_equal(stored.weights.toarray(), layer.weights.toarray())
        for name in MOMENTS:
            if name.startswith("data"):
                values, like = stored.entries[name][stored.source], layer.weights.data
            else:
                values, like = stored.neurons[name], layer.bias
            assert values.dtype == dtype
            np.testing.assert_array_equal(values, like * like.dtype.type(FACTOR[name]))


@pytest.mark.parametrize("method", METHODS)
def test_inference(tmp_path, method):
    net = network()
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    new, _ = evolve(store, method, epoch=2, seed=5, **METHODS[method][0])
    x = random_input(1, 50, net.widths[0])
    for opened, same in ((new, new.network), (open_store(store.path, 0), net)):
        y = np.empty((50, net.widths[-1]), np.float32)
        sdnn.infer(opened, x, out=y)
        np.testing.assert_allclose(y, reference.infer(same, x), rtol=1e-5, atol=1e-6)


def test_only_dropping_changes_what_is_computed(tmp_path):
    """Where the smallest weights are zeros, nothing is lost, and what grows adds nothing."""
    net = network()
    for layer in net:
        place = np.arange(layer.edges) - np.repeat(layer.weights.indptr[:-1], np.diff(layer.weights.indptr))
        layer.weights.data[place % 2 == 0] = 0
    store = sdnn.save(net, tmp_path / "net.zarr")
    new, evolved = evolve(store, "set", share=0.4, epoch=0, seed=0)
    x = random_input(1, 50, net.widths[0])
    assert evolved.grown > 100
    np.testing.assert_allclose(reference.infer(new.network, x), reference.infer(net, x), rtol=1e-5)


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("seed", range(4))
def test_no_new_communication(tmp_path, method, seed):
    net = random_net(seed, layers=5, widest=60)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 4), window=3000)
    free, anywhere = evolve(store, method, epoch=0, seed=seed, share=0.5, gradient=slope)
    shutil.rmtree(store.path)
    store = sdnn.save(net, store.path, partition=random_partition(net, 4), window=3000)
    before = recount(net, store.owner, 4).volume_per_layer
    new, inside = evolve(store, method, epoch=0, seed=seed, share=0.5, gradient=slope, new_communication=False)
    after = recount(new.network, new.owner, 4).volume_per_layer
    assert (after <= before).all()
    assert inside.volume_after == after.sum() == new.provenance["volume"] <= inside.volume_before
    assert inside.volume_after < anywhere.volume_after
    assert 0 < inside.grown <= anywhere.grown
    assert sdnn.verify(new.path) == []
    for layer, old in zip(new.network, net, strict=True):
        np.testing.assert_array_equal(np.diff(layer.weights.indptr), np.diff(old.weights.indptr))
    assert free.path == new.path


def test_one_part_communicates_nothing(tmp_path):
    found = []
    for name, anywhere in (("a", True), ("b", False)):
        store = sdnn.save(network(), tmp_path / name)
        found.append(layers(evolve(store, "set", epoch=1, seed=1, new_communication=anywhere)[0].network))
    assert found[0] == found[1]


def test_the_gradient_is_asked_layer_by_layer(tmp_path):
    net = network()
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 2))
    asked = []

    def gradient(k, rows, columns):
        asked.append(k)
        assert not set(zip(rows.tolist(), columns.tolist(), strict=True)) & entries(net[k].weights).keys()
        assert (rows < net.widths[k + 1]).all()
        assert (columns < net.widths[k]).all()
        return columns

    evolve(store, "rigl", epoch=0, seed=0, gradient=gradient)
    assert asked == [0, 1, 2, 3]


def test_densities_of_layers(tmp_path):
    net = network()
    store = sdnn.save(net, tmp_path / "net.zarr")
    new, _ = evolve(store, "magnitude", epoch=0, seed=0, target=[0.05, 1, 0.05, 1])
    for k, (layer, old) in enumerate(zip(new.network, net, strict=True)):
        rows = np.count_nonzero(np.diff(old.weights.indptr))
        size = old.weights.shape[0] * old.weights.shape[1]
        assert layer.edges == (old.edges if k % 2 else min(old.edges, max(rows, round(0.05 * size))))


def test_supernodes_are_counted(tmp_path):
    """Copies of one row stand together until each grows edges of its own."""
    net = sdnn.radixnet(neurons=1024, layers=1)
    store = sdnn.save(net, tmp_path / "net.zarr")
    _, evolved = evolve(store, "set", epoch=0, seed=0)
    assert (evolved.rows_before, evolved.rows_after) == (16, 1)


# -- generations


def test_again_and_again(tmp_path):
    """Commits and changes of pattern, in turn: what counts is counted, old windows go with their generation."""
    net = network()
    store = trained(net, tmp_path / "net.zarr", 3, window=1500)
    root = (store.path / "zarr.json").read_bytes()
    with writing(store):
        store, first = evolve(store, "magnitude", epoch=0, seed=0, target=0.15, protect={0})
        store = commit(store, lambda w, name: store.array(w, name).read(), extra=MOMENTS, protect={0})
        assert (store.edges, store.provenance["volume"]) == (first.edges_after, first.volume_after)
        store, second = evolve(store, "set", epoch=1, seed=0, protect={0})
    assert second.edges_before == first.edges_after
    assert second.volume_before == first.volume_after
    assert generations(store.path) == [0, 3, 4]
    assert [open_store(store.path, g).edges for g in (0, 3, 4)] == [net.edges, first.edges_after, first.edges_after]
    assert sdnn.verify(store.path) == []
    assert [w.number for w in store.windows(0)] == [4, 5]
    assert [(w.first, w.last) for w in store.windows(0)] == [
        (w.first, w.last) for w in open_store(store.path, 0).windows(0)
    ]
    store, _ = evolve(store, "set", epoch=2, seed=0, keep=1)
    assert generations(store.path) == [5]
    assert sorted(p.name for p in (store.path / "parts/0000").iterdir() if p.is_dir()) == ["0006", "0007"]
    assert sdnn.verify(store.path) == []
    assert (store.path / "zarr.json").read_bytes() == root


def test_going_back_to_a_pattern(tmp_path):
    net = network()
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    store, _ = evolve(store, "magnitude", epoch=0, seed=0, target=0.05)
    first = open_store(store.path, 0)
    with changing(store):
        back = replace_manifest(with_attributes(store, first.manifest.attributes), first.iter_windows(), keep=1)
    assert (back.generation, back.edges, back.provenance) == (2, net.edges, first.provenance)
    assert layers(back.network) == layers(net)
    assert sdnn.verify(store.path) == []


@pytest.mark.parametrize("counts", [[], {"edges": 1, "name": "x"}, {"edges": "many"}, {"partition": []}, {"edges": 3}])
def test_counts_that_cannot_be(tmp_path, counts):
    net = network()
    store, _ = evolve(sdnn.save(net, tmp_path / "net.zarr"), "magnitude", epoch=0, seed=0, target=0.05)
    place = store.path / "manifest" / "zarr.json"
    record = json.loads(place.read_text())
    attributes = record["attributes"]
    attributes["counts"] = counts
    attributes["digest"] = canonical_digest({k: v for k, v in attributes.items() if k != "digest"})
    place.write_text(json.dumps(record))
    with pytest.raises(CorruptStoreError, match=r"'counts' is not|do not match the manifest"):
        open_store(store.path)


def test_the_roots_attributes_are_still_digested(tmp_path):
    store, _ = evolve(sdnn.save(network(), tmp_path / "net.zarr"), "magnitude", epoch=0, seed=0, target=0.05)
    place = store.path / "zarr.json"
    place.write_text(place.read_text().replace('"random-7"', '"random-8"'))
    with pytest.raises(CorruptStoreError, match=r"attributes .* do not match"):
        open_store(store.path)


# -- failures


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        ("magic", {}, "method 'magic'.*magnitude, set, rigl"),
        ("magnitude", {}, "target is None"),
        ("magnitude", {"target": 0}, "target is 0"),
        ("magnitude", {"target": 1.5}, "target is 1.5"),
        ("magnitude", {"target": [0.5, 0.5]}, "one for each of 4 layers"),
        ("set", {"share": -0.1}, "share is -0.1"),
        ("set", {"share": 1.1}, "share is 1.1"),
        ("set", {"seed": -1}, "seed"),
        ("set", {"epoch": 0.5}, "epoch"),
        ("set", {"keep": 0}, "keep 0"),
        ("set", {"training": lambda evolved: [1]}, "JSON"),
        ("rigl", {}, "give a gradient"),
        ("rigl", {"gradient": lambda k, rows, columns: np.full(rows.size, np.inf)}, "finite"),
    ],
)
def test_what_cannot_be_asked(tmp_path, method, how, message):
    store = trained(network(), tmp_path / "net.zarr", 2)
    before = content(store.path)
    with pytest.raises(InputError, match=message):
        evolve(store, method, **{"epoch": 0, "seed": 0, **how})
    assert content(store.path) == before


def test_what_the_gradient_raises_is_passed_on(tmp_path):
    store = trained(network(), tmp_path / "net.zarr", 2, window=1500)
    before = content(store.path)

    def gradient(k, rows, columns):
        if k == 3:
            assert content(store.path) != before
            raise LookupError("of the engine")
        return columns

    with pytest.raises(LookupError, match="of the engine"):
        evolve(store, "rigl", epoch=0, seed=0, gradient=gradient)
    assert content(store.path) == before


def test_moments_that_do_not_fit(tmp_path):
    store = trained(network(), tmp_path / "net.zarr", 1)
    window = store.windows(0)[0]
    shutil.rmtree(store.path / window.path("data_first"))
    entry = write_array(
        checkpoints.zarr.storage.LocalStore(store.path), window.path("data_first"), np.ones(3, np.float32)
    )
    for group in ("manifest", "checkpoints/000001"):
        place = store.path / group / "zarr.json"
        record = json.loads(place.read_text())
        attributes = record["attributes"]
        attributes["windows"][0]["arrays"]["data_first"] = entry.as_json()
        attributes["digest"] = canonical_digest({k: v for k, v in attributes.items() if k != "digest"})
        place.write_text(json.dumps(record))
    with pytest.raises(CorruptStoreError, match="'data_first' of generation 1: has 3 elements"):
        evolve(open_store(store.path), "set", epoch=0, seed=0)


class Killer(Moments):
    """Kills the process at the n-th moment before or after it writes, syncs, replaces or removes something."""

    def __init__(self, at):
        self.at = at

    def tick(self):
        self.at -= 1
        if not self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self):
        places = [(rewriting, "write_array"), (writer, "write_array"), (sweeping, "remove"), (checkpoints, "_put")]
        for module, name in [*places, (checkpoints, "sync"), (checkpoints, "sync_path"), (sweeping, "sync_path")]:
            setattr(module, name, self.hook(getattr(module, name)))


KILLING = """
import os, shutil, sys
sys.path[:0] = sys.argv[3:]
from test_rewriting import Killer, evolve, open_store

for at in range(1, 1000, 7):  # nothing has started a thread here, so forking is safe
    path = shutil.copytree(sys.argv[1], f"{sys.argv[2]}/{at}.zarr")
    child = os.fork()
    if not child:
        Killer(at).watch()
        evolve(open_store(path), "set", epoch=0, seed=0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def test_killed_at_any_moment(tmp_path):
    net = random_net(5, layers=2, widest=12)
    store = trained(net, tmp_path / "net.zarr", 2)
    copy = shutil.copytree(store.path, tmp_path / "copy.zarr")
    before, after = layers(net), layers(evolve(open_store(copy), "set", epoch=0, seed=0)[0].network)
    assert before != after
    (tmp_path / "killed").mkdir()
    here = Path(__file__).parent
    code = [sys.executable, "-P", "-c", KILLING, str(store.path), str(tmp_path / "killed"), str(here), str(here.parent)]
    subprocess.run(code, check=True)
    found, left = [], 0
    for path in sorted((tmp_path / "killed").iterdir(), key=lambda p: int(p.stem)):
        there = open_store(path)
        found.append(there.generation)
        assert layers(there.network) == {1: before, 2: after}[there.generation]
        assert sdnn.verify(path) == []
        left += there.generation == 1 and (path / "parts/0000/0001").exists()
        new, _ = evolve(there, "set", epoch=1, seed=0, keep=1)
        assert generations(path) == [new.generation]
        folders = {p.parent.name: p.name for p in path.glob("parts/*/*") if p.is_dir()}
        assert folders == {f"{w.part:04d}": f"{w.number:04d}" for w in new.iter_windows()}
        assert sdnn.verify(path) == []
    assert found == sorted(found)
    assert found.count(1) > 8
    assert found.count(2) > 1
    assert left > 5  # was left, and removed
