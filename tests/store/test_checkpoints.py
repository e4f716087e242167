"""A checkpoint counts whole or not at all, keeps what it should, and loses nothing that a kept manifest names."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import Moments
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import CorruptStoreError, InputError, StoreError
from dasksdnn.store import checkpoints, sweeping
from dasksdnn.store.checkpoints import changing, commit, generations, replace_manifest, writing
from dasksdnn.store.encoding import write_array
from dasksdnn.store.layout import STATE, STRUCTURE
from dasksdnn.store.manifest import canonical_digest
from dasksdnn.store.reader import Store, open_store
from dasksdnn.store.verify import verify

MOMENTS = ("data_first", "bias_first", "data_second", "bias_second")


def scaled(store, factor):
    """Values that follow from those of a store; moments are told apart by their names."""
    return lambda window, name: store.array(window, name[:4]).read() * store.dtype.type(factor * len(name))


def state(store):
    """All values of a store, moments included."""
    names = {(w.part, w.number, name): (w, name) for w in store.iter_windows() for name in (*STATE, *w.extra)}
    return {key: store.array(*place).read() for key, place in names.items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].dtype == values.dtype
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


def content(path, *folders):
    places = (path / folder for folder in folders or [""])
    return {str(p.relative_to(path)): p.read_bytes() for place in places for p in place.rglob("*") if p.is_file()}


def states(path):
    return {p.relative_to(path).as_posix() for p in path.glob("parts/*/*/state-*")}


def edit(path, group, change):
    """Change a manifest, keeping its digest right."""
    place = path / group / "zarr.json"
    record = json.loads(place.read_text())
    change(record["attributes"])
    body = {key: value for key, value in record["attributes"].items() if key != "digest"}
    record["attributes"]["digest"] = canonical_digest(body)
    place.write_text(json.dumps(record))


@pytest.fixture
def path(damaged):
    return damaged


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two parts of one window each: few files, for tests that go through all of them."""
    net = random_net(5, layers=2, widest=12)
    return sdnn.save(net, tmp_path_factory.mktemp("small") / "net.zarr", partition=random_partition(net, 2)).path


# -- what is committed is what is read


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_comes_back(tmp_path, dtype):
    net = random_net(9, layers=5, widest=40, dtype=dtype)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3), window=1500)
    untouched = content(store.path, "owner") | {"zarr.json": (store.path / "zarr.json").read_bytes()}
    first, asked, values = state(store), [], scaled(store, 0.3)

    def asking(window, name):
        asked.append((window.part, window.number, name))
        return values(window, name)

    where = {"epoch": 3, "loss": 0.1 + 0.2, "history": [{"é": None}, 2**70, -1e-300]}
    new = commit(store, asking, extra=MOMENTS, training=where)
    assert asked == [(w.part, w.number, name) for w in store.iter_windows() for name in (*STATE, *MOMENTS)]
    assert (store.generation, store.training, new.generation, new.training) == (0, None, 1, where)
    assert generations(store.path) == [0, 1]
    assert verify(new) == []
    same(
        state(new),
        {key: values(w, key[2]) for w in store.iter_windows() for key in asked if key[:2] == (w.part, w.number)},
    )
    assert {name for w in new.iter_windows() for name in w.extra} == set(MOMENTS)
    for k, layer in enumerate(new.network):
        np.testing.assert_array_equal(layer.weights.data, net[k].weights.data * net.dtype.type(0.3 * 4))
        np.testing.assert_array_equal(layer.weights.indices, net[k].weights.indices)
    assert content(store.path).items() >= untouched.items()
    same(state(open_store(store.path, 0)), first)
    again = commit(new, scaled(new, 2))  # moments are of one generation: those not given are gone
    assert [w.extra for w in again.iter_windows()] == [()] * len(again.manifest.windows)


def test_training_is_what_json_gives_back(path):
    store = commit(open_store(path), scaled(open_store(path), 1), training={10: (1, 2), 2: {"a": True}})
    assert store.training == {"10": [1, 2], "2": {"a": True}}
    assert verify(path) == []
    assert commit(store, scaled(store, 1)).training is None


def test_other_writers_manifests_stay_as_they_are(path):
    """The copy of the manifest that is replaced holds keys that this release does not know."""
    edit(path, "manifest", lambda m: m.update(future=[1.5]))
    before = (path / "manifest" / "zarr.json").read_bytes()
    commit(open_store(path), scaled(open_store(path), 1))
    assert (path / "checkpoints" / "000000" / "zarr.json").read_bytes() == before


def test_zarr_sees_groups(path):
    commit(open_store(path), scaled(open_store(path), 2))
    group = zarr.open_group(path, mode="r")
    assert sorted(name for name, _ in group["checkpoints"].groups()) == ["000000", "000001"]
    assert group["checkpoints/000001"].attrs.asdict() == group["manifest"].attrs.asdict()


# -- which generations stay


@settings(deadline=None, max_examples=12)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 4), st.sets(st.integers(0, 6), max_size=2), st.booleans()), min_size=1, max_size=6
    )
)
def test_kept_are_the_newest_and_the_protected(small, steps):
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(small, Path(folder) / "net.zarr")
        store = open_store(path)
        model = {0: state(store)}
        for number, (keep, protect, moments) in enumerate(steps, start=1):
            store = commit(store, scaled(store, 0.7), extra=MOMENTS[:2] * moments, keep=keep, protect=protect)
            model[number] = state(store)
            newest = sorted(model)[-keep:]
            model = {n: values for n, values in model.items() if n in newest or n in protect}
            assert generations(path) == sorted(model)
        for number, values in model.items():
            same(state(open_store(path, number)), values)
        assert states(path) == {f"parts/{p:04d}/0000/state-{n:06d}" for p in (0, 1) for n in model}
        assert verify(path) == []


def test_earlier_generations(path):
    store = open_store(path)
    for factor in (2, 3, 4):
        store = commit(store, scaled(store, factor), keep=9, training={"factor": factor})
    old = open_store(path, 1)
    assert (old.generation, old.training) == (1, {"factor": 2})
    assert open_store(path, 3).digest == open_store(path).digest == store.digest
    back = pickle.loads(pickle.dumps(old))
    assert (back.generation, back.digest) == (1, old.digest)
    same(state(back), state(old))
    np.testing.assert_array_equal(
        old.dask_layer(0, order="original").compute(scheduler="sync").todense(), old.layer(0).weights.toarray()
    )
    for number in (4, 7, -1):
        with pytest.raises(StoreError, match=rf"no generation {number}: .* 0, 1, 2, 3$"):
            open_store(path, number)
    commit(store, scaled(store, 1), keep=1)
    assert generations(path) == [4]
    with pytest.raises(StoreError, match="replaced"):
        pickle.loads(pickle.dumps(old))


def test_a_manifest_under_another_number(path):
    store = commit(open_store(path), scaled(open_store(path), 2), keep=9)
    commit(store, scaled(store, 2), keep=9)
    shutil.copy(path / "checkpoints/000000/zarr.json", path / "checkpoints/000001/zarr.json")
    with pytest.raises(CorruptStoreError, match="generation 1 is that of 0"):
        open_store(path, 1)
    assert len(verify(path)) == 1


@pytest.mark.parametrize("training", [None, [], "epoch 3", 3])
def test_training_that_is_no_object(path, training):
    edit(path, "manifest", lambda m: m.update(training=training))
    with pytest.raises(CorruptStoreError, match=r"malformed.*'training'"):
        open_store(path)


# -- patterns that change, states that are shared


def rewire(store, generation):
    """Write the windows of part 0 anew under other numbers, as if their pattern had changed."""
    location = zarr.storage.LocalStore(store.path)
    windows = []
    for w in store.iter_windows():
        if w.part == 0:
            made = replace(w, number=w.number + 10, generation=generation)
            arrays = {
                n: write_array(location, made.path(n), store.array(w, n).read().reshape(e.shape))
                for n, e in w.arrays.items()
            }
            windows.append(replace(made, arrays=arrays))
        else:
            windows.append(w)
    return windows


def test_windows_of_other_numbers(path):
    store = open_store(path)
    old = state(store)
    with changing(store) as generation:
        new = replace_manifest(store, rewire(store, generation), training={"rewired": 1})
    assert verify(path) == []
    assert [w.number for w in new.windows(0)] == [10, 11]
    assert {w.generation for w in new.windows(1)} == {0}  # not written again
    same(state(open_store(path, 0)), old)
    newest = commit(new, scaled(new, 2), keep=1)
    assert sorted(p.name for p in (path / "parts/0000").iterdir() if p.is_dir()) == ["0010", "0011"]
    with changing(newest), pytest.raises(CorruptStoreError, match="do not fit"):
        replace_manifest(newest, list(newest.iter_windows())[1:])
    assert verify(path) == []


def test_attributes_that_follow_from_the_pattern(path):
    """They are of their generation, and the root's stay; a count that is not so is found; no other may change."""
    store = open_store(path)
    root, first = (path / "zarr.json").read_bytes(), store.provenance

    def change(**attributes):
        manifest = replace(store.manifest, attributes=store.manifest.attributes | attributes)
        with changing(store) as generation:
            changed = Store(path, store.location, manifest)
            return replace_manifest(changed, rewire(store, generation), keep=9, training={"a": 1})

    before = content(path)
    for attributes in ({"name": "other"}, {"edges": "many"}, {"edges": None}, {"partition": 3}, {"future": 1}):
        with pytest.raises(CorruptStoreError, match=r"malformed|do not (fit|match)"):
            change(**attributes)
        assert content(path) == before
    store = change(partition={"method": "rewired"})
    assert store.provenance == open_store(path).provenance == {"method": "rewired"}
    assert open_store(path, 0).provenance == first
    assert verify(path) == []
    store = commit(store, scaled(store, 2), keep=9)  # keeps what it has
    assert (store.provenance, store.edges) == ({"method": "rewired"}, open_store(path, 0).edges)
    store = change(partition=first)
    assert store.provenance == first
    assert (path / "zarr.json").read_bytes() == root
    store = change(edges=store.edges + 1)
    assert [f"edges is {store.edges - 1}, the attributes say {store.edges}" in f.message for f in verify(path)] == [
        True
    ]


def test_going_back_shares_states(path):
    store = open_store(path)
    first = state(store)
    store = commit(store, scaled(store, 2))
    with changing(store):
        back = replace_manifest(store, open_store(path, 0).iter_windows(), keep=1)
    assert (back.generation, generations(path)) == (2, [2])
    same(state(back), first)
    assert {name[-6:] for name in states(path)} == {"000000"}
    assert commit(back, scaled(back, 2)).windows(0)[0].generation == 3
    assert verify(path) == []


def test_new_windows_are_removed_where_the_change_fails(path):
    store = open_store(path)
    before = content(path)

    def change():
        with changing(store) as generation:
            rewire(store, generation)
            assert content(path) != before
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(StoreError, match="the disk is full"):
        change()
    assert content(path) == before


# -- failures


def attempt(function, *arguments, **options):
    """What a call raises, or None."""
    try:
        function(*arguments, **options)
    except BaseException as error:
        return error
    return None


class Counter(Moments):
    """Calls a function at the n-th moment before or after a commit writes, syncs, replaces or removes something."""

    def __init__(self, at, action):
        self.at, self.action, self.calls = at, action, 0

    def tick(self):
        if threading.current_thread() is not threading.main_thread():
            return  # Zarr replaces files, too
        self.calls += 1
        if self.calls == self.at:
            self.action()

    def watch(self, setter):
        for module, name in (
            (checkpoints, "write_array"),
            (checkpoints, "sync"),
            (checkpoints, "sync_path"),
            (checkpoints.os, "replace"),
            (sweeping, "remove"),
            (sweeping, "sync_path"),
        ):
            setter(module, name, self.hook(getattr(module, name)))


def prepare(folder, small):
    """A store at generation 2 that keeps 1 and 2, whose next commit keeps 2 and 3."""
    path = shutil.copytree(small, folder / "net.zarr")
    store = open_store(path)
    for _ in range(2):
        store = commit(store, scaled(store, 0.9), extra=MOMENTS[:2], training={"epoch": store.generation})
    return path


def check_whole(path, before, after):
    """The store is at 2 or at 3, whole, and a new commit leaves just what it should."""
    store = open_store(path)
    same(state(store), {2: before, 3: after}[store.generation])
    assert verify(path) == []
    kept = generations(path)
    assert {2, store.generation} <= set(kept) <= {1, 2, 3}
    new = commit(store, scaled(store, 0.5), extra=MOMENTS[:2])
    assert generations(path) == [store.generation, new.generation]
    assert {int(name[-6:]) for name in states(path)} == set(generations(path))
    assert sorted(p.name for p in (path / "checkpoints").iterdir() if p.is_dir()) == [
        f"{n:06d}" for n in generations(path)
    ]
    assert verify(path) == []
    return store.generation


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("prepared")
    path = prepare(folder, small)
    before = state(open_store(path))
    copy = shutil.copytree(path, folder / "copy.zarr")
    store = open_store(copy)
    after = state(commit(store, scaled(store, 0.8), extra=MOMENTS[:2]))
    return path, before, after


FAILURES = [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt(), RuntimeError("odd")]


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_failure_at_any_moment(prepared, tmp_path, monkeypatch, first):
    """At each moment another kind of failure; with the slow ones, each kind at each moment."""
    sound, before, after = prepared
    found = []

    for at in range(1, 1000):
        error = FAILURES[(first + at) % len(FAILURES)]

        def fail(error=error):
            raise error

        path = shutil.copytree(sound, tmp_path / f"{at}.zarr")
        store = open_store(path)
        files = content(path, "parts", "manifest", "owner")
        with monkeypatch.context() as patch:
            counter = Counter(at, fail)
            counter.watch(patch.setattr)
            raised = attempt(commit, store, scaled(store, 0.8), extra=MOMENTS[:2])
        stopped = raised is not None
        if stopped and isinstance(error, OSError):
            assert type(raised) is StoreError
            assert str(raised).startswith(f"{path}: the disk is full")
        elif stopped:
            assert raised is error
        assert stopped == (counter.calls >= at)
        if content(path, "parts", "manifest", "owner") == files:  # nothing half-written stays
            found.append(2)
        else:
            assert open_store(path).generation == 3
            found.append(check_whole(path, before, after))
        shutil.rmtree(path)
        if not stopped:
            break
    assert found == sorted(found)
    assert found.count(2) > 16
    assert found.count(3) > 5


KILLING = """
import os, shutil, signal, sys
sys.path[:0] = sys.argv[3:]
from test_checkpoints import MOMENTS, Counter, scaled
from dasksdnn.store.checkpoints import commit
from dasksdnn.store.reader import open_store

for at in range(1, 1000):  # nothing has started a thread here, so forking is safe
    path = shutil.copytree(sys.argv[1], f"{sys.argv[2]}/{at}.zarr")
    child = os.fork()
    if not child:
        Counter(at, lambda: os.kill(os.getpid(), signal.SIGKILL)).watch(setattr)
        store = open_store(path)
        commit(store, scaled(store, 0.8), extra=MOMENTS[:2])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def test_killed_at_any_moment(prepared, tmp_path):
    sound, before, after = prepared
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-P", "-c", KILLING, str(sound), str(tmp_path), str(here), str(here.parent)], check=True
    )
    paths = sorted(tmp_path.iterdir(), key=lambda p: int(p.stem))
    left = [bool(list(path.glob("parts/*/*/state-000003"))) for path in paths]
    found = [check_whole(path, before, after) for path in paths]
    assert found == sorted(found)
    assert found.count(2) > 16
    assert found.count(3) > 5
    assert any(here and generation == 2 for here, generation in zip(left, found, strict=True))  # was left, and removed


def test_what_values_raises_is_passed_on(path):
    store = open_store(path)
    before = content(path)
    asked = []

    def values(window, name):
        asked.append(name)
        if len(asked) == 4:
            raise LookupError("of the trainer")
        return store.array(window, name).read()

    with pytest.raises(LookupError, match="of the trainer"):
        commit(store, values)
    assert content(path) == before


@pytest.mark.parametrize("array", ["data", "bias", "data_first", "bias_first"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(path, array, value):
    store = open_store(path)
    before = content(path)
    window = store.windows(0)[1]
    extent = store.extents(window)[1]
    at = (extent.entries if array.startswith("data") else extent.rows)[0]

    def values(w, name):
        made = scaled(store, 1)(w, name)
        if (w, name) == (window, array):
            made[at] = value
        return made

    with pytest.raises(InputError, match=rf"part 0, window 1, array '{array}', layer {window.first + 2}: .* NaN"):
        commit(store, values, extra=("data_first", "bias_first"))
    assert content(path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:-1], "elements of float32, not"),
        (lambda a: a.astype(np.float64), "elements of float64, not"),
        (lambda a: np.append(a, a), "elements of float32, not"),
    ],
)
@pytest.mark.parametrize("array", ["data", "bias_first"])
def test_values_that_do_not_fit(path, change, message, array):
    store = open_store(path)
    before = content(path)

    def values(window, name):
        made = scaled(store, 1)(window, name)
        return change(made) if (name, window.part) == (array, 2) else made

    with pytest.raises(InputError, match=f"part 2, window 0, array '{array}' has .*{message}"):
        commit(store, values, extra=["bias_first"])
    assert content(path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"keep": 0},
        {"extra": ["moment"]},
        {"extra": ["data_"]},
        {"extra": ["data_é"]},
        {"extra": ["rows"]},
        {"extra": ["data_../../x"]},
        {"training": [1]},
        {"training": {"loss": float("nan")}},
        {"training": {"when": np.arange(3)}},
    ],
    ids=str,
)
def test_bad_arguments(path, arguments):
    before = content(path)
    with pytest.raises(InputError, match=r"usable|JSON"):
        commit(open_store(path), lambda window, name: pytest.fail("asked"), **arguments)
    assert content(path) == before


# -- what others left


def test_leftovers_are_never_trusted(path):
    store = commit(open_store(path), scaled(open_store(path), 2))
    shutil.copytree(path / "parts/0000/0000/state-000001", path / "parts/0000/0000/state-000002")
    (path / "parts/0000/0000/state-000002/data/c/0").write_bytes(b"torn")
    (path / "parts/0001/0000/state-000002/data").mkdir(parents=True)
    (path / "parts/0001/0000/state-000077").mkdir()
    shutil.copytree(path / "parts/0002/0000", path / "parts/0002/0009")
    shutil.copytree(path / "checkpoints/000001", path / "checkpoints/000002")
    (path / "checkpoints/000005").mkdir()
    for stranger in ("parts/0000/0000/derived", "parts/0000/notes", "checkpoints/mine", "parts/0000/0000/state-mine"):
        (path / stranger).mkdir()
    assert generations(path) == [0, 1]
    with pytest.raises(StoreError, match="no generation 2"):
        open_store(path, 2)
    assert verify(path) == []
    new = commit(store, scaled(store, 2), extra=MOMENTS[:2])
    np.testing.assert_array_equal(new.layer(0).weights.data, store.layer(0).weights.data * store.dtype.type(8))
    assert verify(path) == []
    assert {int(name[-6:]) for name in states(path) if not name.endswith("mine")} == {1, 2}
    assert sorted(p.name for p in (path / "checkpoints").iterdir() if p.is_dir()) == ["000001", "000002", "mine"]
    assert not (path / "parts/0002/0009").exists()
    assert (path / "parts/0000/0000/derived").is_dir()
    assert (path / "parts/0000/notes").is_dir()


def test_what_a_damaged_manifest_names_is_not_removed(path):
    store = commit(open_store(path), scaled(open_store(path), 2))
    store = commit(store, scaled(store, 2), keep=9)
    copy = path / "checkpoints/000001/zarr.json"
    copy.write_bytes(copy.read_bytes()[:-40])
    before = states(path)
    assert [f.part for f in verify(path)] == [None]
    store = commit(store, scaled(store, 2), keep=1, protect=[1])
    assert before < states(path)
    commit(store, scaled(store, 2), keep=1)
    assert {int(name[-6:]) for name in states(path)} == {4}
    assert verify(path) == []


def test_a_store_that_has_changed(path):
    stale = open_store(path)
    new = commit(stale, scaled(stale, 2))
    before = content(path)
    for store in (stale, open_store(path, 0)):
        with pytest.raises(StoreError, match=r"not what was opened \(then generation 0, now 1\)"):
            commit(store, scaled(store, 2))
        with pytest.raises(StoreError, match="open it anew"), writing(store):
            pytest.fail("entered")
    assert content(path) == before
    commit(new, scaled(new, 2))


# -- one training at a time

HOLDING = """
import sys, time
from dasksdnn.store.checkpoints import writing
from dasksdnn.store.reader import open_store
with writing(open_store(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_one_process_trains_a_store(path):
    store = open_store(path)
    with subprocess.Popen([sys.executable, "-P", "-c", HOLDING, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match="another process is training this store"), writing(store):
            pytest.fail("entered")
        assert verify(path) == []  # readers are not kept out
        other.send_signal(signal.SIGKILL)
        other.wait()
    with writing(store):
        with pytest.raises(StoreError, match="another process"), writing(open_store(path)):
            pytest.fail("entered")
        store = commit(store, scaled(store, 2))
    with writing(store):
        pass


@pytest.mark.parametrize(("number", "entered"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_where_there_are_no_locks(path, monkeypatch, number, entered):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints.fcntl, "flock", flock)
    raised = attempt(writing(open_store(path)).__enter__)
    assert (raised is None) is entered
    assert entered or (type(raised) is StoreError and str(raised).startswith(f"{path}: "))


# -- verifying


def test_every_file_of_a_trained_store_counts(prepared, tmp_path):
    """Flipped or deleted, each is found, with its window where it has one."""
    path = shutil.copytree(prepared[0], tmp_path / "net.zarr")
    rng = np.random.default_rng(0)
    for name, original in content(path).items():
        flipped = bytearray(original)
        if not name.endswith("zarr.json"):
            flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        else:
            flipped = bytearray(original.replace(b'"node_type"', b'"node_typo"'))
        for damaged in (bytes(flipped), None):
            if name == "checkpoints/000002/zarr.json" and damaged is None:
                continue  # a copy that the next commit writes again
            if damaged is None:
                (path / name).unlink()
            else:
                (path / name).write_bytes(damaged)
            lost = name == "checkpoints/000001/zarr.json" and damaged is None  # then it is not kept
            assert bool(verify(path)) is not lost, name
            (path / name).write_bytes(original)
    assert verify(path) == []


def test_damage_to_an_earlier_generation_is_named(path):
    commit(open_store(path), scaled(open_store(path), 2))
    (path / "parts/0001/0000/state-000001/bias/c/0").unlink()
    (path / "parts/0001/0000/state-000000/data/c/0").unlink()
    (path / "parts/0002/0000/structure/indices/c/0").unlink()
    findings = verify(path)
    assert {(f.part, f.array) for f in findings} == {(1, "bias"), (1, "data"), (2, "indices")}
    assert len(findings) == 3  # the structure is of both generations, and is named once
    assert any("array 'bias' of generation 1:" in f.message for f in findings)
    told = []
    verify(path, listener=told.append)
    assert [(t.done, t.total) for t in told] == [(i + 1, 14) for i in range(14)]


@pytest.mark.parametrize(
    ("values", "message"), [(np.ones(3, np.float32), "not"), (np.ones(3), "float64"), (None, "NaN")], ids=str
)
def test_moments_that_cannot_be(path, values, message):
    store = commit(open_store(path), scaled(open_store(path), 2), extra=["data_first"])
    window = store.windows(0)[0]
    if values is None:
        values = np.full(window.arrays["data"].size, np.nan, np.float32)
    shutil.rmtree(path / window.path("data_first"))
    entry = write_array(zarr.storage.LocalStore(path), window.path("data_first"), values)
    for group in ("manifest", "checkpoints/000001"):
        edit(path, group, lambda m: m["windows"][0]["arrays"].update(data_first=entry.as_json()))
    (finding,) = verify(path)
    assert (finding.part, finding.window, finding.array) == (0, 0, "data_first")
    assert message in finding.message
    assert set(STRUCTURE) < set(open_store(path).windows(0)[0].arrays)  # inference does without it
