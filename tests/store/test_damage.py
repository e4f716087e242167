"""Every damage to a store is found, by `verify` and by whoever reads; none gives a wrong number or a bare traceback."""

from __future__ import annotations

import json
import os
import shutil
import zlib

import numpy as np
import pytest
import zarr
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.engines.loading import load
from dasksdnn.errors import CorruptStoreError, DaskSDNNError, StoreError
from dasksdnn.store.encoding import canonical_json, write_array
from dasksdnn.store.manifest import canonical_digest
from dasksdnn.store.reader import open_store
from dasksdnn.store.verify import verify


@pytest.fixture
def store(damaged):
    return damaged


def content(path):
    """All that can be read of a store."""
    store = open_store(path)
    layers = [store.layer(k) for k in range(len(store))]
    chain = load(store, 0, len(store)).chain
    merged = [chain.indptr, chain.indices, chain.data, chain.bias]
    return [*merged, *(a for x in layers for a in (x.weights.indptr, x.weights.indices, x.weights.data, x.bias))]


def attempt(function, *arguments):
    """What a function returns, or the error, which must be ours and one line."""
    try:
        return function(*arguments)
    except DaskSDNNError as error:
        return error if "\n" not in str(error) else None


def check(path, sound, what):
    """A damaged store must be found damaged; a reader must get an error, or what was written."""
    assert attempt(verify, path), what
    found = attempt(content, path)
    assert found, what
    if not isinstance(found, Exception):
        for mine, theirs in zip(found, content(sound), strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=str(what))


def files(path):
    return sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())


def test_every_file_flipped_truncated_and_deleted(tmp_path):
    net = random_net(7, layers=2, widest=20)
    sound, store = tmp_path / "sound.zarr", tmp_path / "net.zarr"
    sdnn.save(net, sound, partition=random_partition(net, 2))
    shutil.copytree(sound, store)
    rng = np.random.default_rng(0)
    seen = 0
    for name in files(sound):
        original = (sound / name).read_bytes()
        flipped = bytearray(original)
        at = int(rng.integers(len(flipped)))
        flipped[at] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(flipped), original[: len(original) // 2], b"", None):
            if damaged is None:
                (store / name).unlink()
            else:
                (store / name).write_bytes(damaged)
            if name.name == "zarr.json" and damaged is not None and _same_json(damaged, original):
                continue
            check(store, sound, (name, None if damaged is None else len(damaged)))
            seen += 1
        (store / name).write_bytes(original)
    assert seen > 3 * len(files(sound))
    assert verify(store) == []


def _same_json(a, b):
    """Whether metadata says the same; some versions of Zarr add keys to groups that mean nothing here."""
    try:
        one, other = json.loads(a), json.loads(b)
    except ValueError:
        return False
    if isinstance(one, dict) and other["node_type"] == "group":
        return all(one.get(key) == other[key] for key in ("zarr_format", "node_type", "attributes"))
    return one == other


def test_swapped_chunks(store, sound):
    by_kind = {}
    for name in files(sound):
        if name.name != "zarr.json":
            by_kind.setdefault((name.parts[-3], (sound / name).stat().st_size), []).append(name)
    pairs = [group[:2] for group in by_kind.values() if len(group) > 1]
    assert pairs
    for a, b in pairs:
        one, other = (sound / a).read_bytes(), (sound / b).read_bytes()
        if one == other:
            continue
        (store / a).write_bytes(other)
        (store / b).write_bytes(one)
        check(store, sound, (a, b))
        (store / a).write_bytes(one)
        (store / b).write_bytes(other)


def test_verify_names_part_array_and_layer(store):
    victim = store / "parts" / "0001" / "0000" / "state-000000" / "data" / "c" / "0"
    body = bytearray(victim.read_bytes())
    body[0] ^= 1
    victim.write_bytes(bytes(body))
    findings = verify(store)
    assert [(f.part, f.window, f.array) for f in findings] == [(1, 0, "data")]
    assert findings[0].layer == 1
    assert "part 1" in findings[0].message
    assert findings[0].as_dict()["array"] == "data"


def test_a_missing_chunk_of_zeros_is_missed(tmp_path):
    net = random_net(21, layers=2)
    silent = sdnn.from_arrays([layer.weights for layer in net])
    sdnn.save(silent, tmp_path / "net.zarr")
    (tmp_path / "net.zarr" / "parts" / "0000" / "0000" / "state-000000" / "bias" / "c" / "0").unlink()
    assert [f.array for f in verify(tmp_path / "net.zarr")] == ["bias"]
    with pytest.raises(CorruptStoreError, match="missing"):
        open_store(tmp_path / "net.zarr").layer(0)


def edit(path, change, group=""):
    """Change a group's attributes, keeping every digest right, as a writer of another kind would have them."""
    root, seal = path / "zarr.json", path / "manifest" / "zarr.json"
    records = {name: json.loads(p.read_text()) for name, p in (("", root), ("manifest", seal))}
    change(records[group]["attributes"])
    manifest = records["manifest"]["attributes"]
    manifest.pop("digest", None)
    manifest["attributes"] = canonical_digest(records[""]["attributes"])
    manifest["digest"] = canonical_digest(manifest)
    root.write_text(json.dumps(records[""]))
    seal.write_text(json.dumps(records["manifest"]))


def test_an_untouched_edit_still_opens(store):
    edit(store, lambda a: None)
    assert verify(store) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(version=2), "version 2 is newer than 1"),
        (lambda a: a.update(version="1"), "not a positive integer"),
        (lambda a: a.update(format="other"), "not a dasksdnn store"),
        (lambda a: a.update(inputs=[0, 0, 2, 3]), "layer 2 takes its input from 0"),
        (lambda a: a.update(nparts=4), "do not fit"),
        (lambda a: a.update(nparts=1 << 60), "do not fit"),
        (lambda a: a["widths"].append(5), "do not fit"),
        (lambda a: a.update(widths=[1 << 60] * 5), "do not fit"),
        (lambda a: a.update(dtype="float16"), "do not fit"),
        (lambda a: a["activations"].__setitem__(0, "softplus"), "malformed"),
        (lambda a: a.pop("edges"), "malformed"),
    ],
)
def test_attributes_that_cannot_be(store, change, message):
    edit(store, change)
    with pytest.raises(StoreError, match=message):
        open_store(store)


def hostile(manifest):
    for entry in manifest["windows"][0]["arrays"].values():
        entry["shape"] = [1 << 60]


@pytest.mark.parametrize(
    "change",
    [
        hostile,
        lambda m: m.update(windows=[]),
        lambda m: m["windows"].pop(),
        lambda m: m["windows"].append(m["windows"][0]),
        lambda m: m["windows"][0].update(part=-1),
        lambda m: m["windows"][0].update(layers=[3, 1]),
        lambda m: m["windows"][0]["arrays"].pop("data"),
        lambda m: m["windows"][0]["arrays"].update({"../../etc": m["windows"][0]["arrays"]["data"]}),
        lambda m: m["windows"][0]["arrays"]["indices"].update(dtype="object"),
        lambda m: m["windows"][0]["arrays"]["data"].update(digests="zz"),
        lambda m: m.update(owner=None),
    ],
)
def test_manifests_that_cannot_be(store, change):
    edit(store, change, "manifest")
    with pytest.raises(CorruptStoreError):
        open_store(store)


def test_a_manifest_of_another_store(store, tmp_path):
    other = random_net(22, layers=4)
    sdnn.save(other, tmp_path / "other.zarr")
    shutil.copy(tmp_path / "other.zarr" / "manifest" / "zarr.json", store / "manifest" / "zarr.json")
    with pytest.raises(CorruptStoreError, match="do not match the manifest"):
        open_store(store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(store):
    (store / "zarr.json").chmod(0)
    with pytest.raises(StoreError, match="no permission"):
        open_store(store)


@pytest.mark.parametrize("kind", ["fill_value", "data_type", "codecs", "chunk_grid", "shape", "attributes", "deep"])
def test_metadata_that_was_changed(store, kind):
    place = store / "parts" / "0000" / "0000" / "structure" / "columns" / "zarr.json"
    record = json.loads(place.read_text())
    if kind == "deep":
        place.write_text("[" * 100_000)
    else:
        record[kind] = {
            "fill_value": 1,
            "data_type": "int32",
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 60]}},
            "shape": [1 << 60],
            "attributes": {"a": 1},
        }[kind]
        place.write_text(json.dumps(record))
    findings = verify(store)
    assert [(f.part, f.window, f.array) for f in findings] == [(0, 0, "columns")]
    with pytest.raises(CorruptStoreError, match="metadata"):
        open_store(store).columns(0, 0)


@pytest.mark.parametrize("inner", [False, True])
def test_chunks_without_bounds_are_refused_before_memory_is_taken(store, inner):
    """Even where every digest fits."""
    place = store / "parts" / "0000" / "0000" / "structure" / "columns" / "zarr.json"
    record = json.loads(place.read_text())
    grid = record["codecs"][0]["configuration"] if inner else record["chunk_grid"]["configuration"]
    grid["chunk_shape"] = [1 << 50]
    record["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 50]
    place.write_text(json.dumps(record))
    digest = f"{zlib.crc32(canonical_json(record)):08x}"
    edit(store, lambda m: m["windows"][0]["arrays"]["columns"].update(metadata=digest), "manifest")
    with pytest.raises(CorruptStoreError, match="metadata cannot be used"):
        open_store(store).columns(0, 0)


def test_groups_between_are_found_missing_but_not_needed(store, sound):
    for name in ("parts", "parts/0001", "parts/0001/0000", "parts/0001/0000/structure", "parts/0001/0000/state-000000"):
        (store / name / "zarr.json").unlink()
    findings = verify(store)
    assert len(findings) == 5
    assert {(f.part, f.window) for f in findings} == {(None, None), (1, None), (1, 0)}
    for mine, theirs in zip(content(store), content(sound), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_all_that_is_damaged_is_named(store):
    for name in ("owner/c/0", "parts/0000/0000/structure/offsets/c/0", "parts/0002/0000/state-000000/bias/c/0"):
        (store / name).unlink()
    found = {(f.part, f.window, f.array) for f in verify(store)}
    assert {(None, None, "owner"), (0, 0, "offsets"), (2, 0, "bias")} <= found


def rewrite(path, part, name, change):
    """Change the values of an array of a part's first window, keeping every digest right."""
    store = open_store(path)
    window = store.windows(part)[0]
    values = change(store, store.array(window, name).read().copy())
    shutil.rmtree(path / window.path(name))
    entry = write_array(zarr.storage.LocalStore(path), window.path(name), values)
    at = store.manifest.windows.index(window)
    edit(path, lambda m: m["windows"][at]["arrays"].update({name: entry.as_json()}), "manifest")


def swap_received(store, columns):
    """Exchange two neurons that part 0 receives at layer 2, whose order follows from the rows of layer 1."""
    extent = store.extent(0, 1).columns
    columns[extent[1] - 2 : extent[1]] = columns[extent[1] - 2 : extent[1]][::-1].copy()
    return columns


def swap_own(store, columns):
    columns[:2] = columns[1::-1].copy()
    return columns


def twice(store, columns):
    extent = store.extent(0, 0).columns
    columns[extent[1] - 1] = columns[extent[1] - 2]
    return columns


def first_to(value):
    def change(store, values):
        values[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "change", "layer", "message"),
    [
        ("columns", swap_received, 2, "sender by sender"),
        ("columns", swap_own, 1, "do not stand first"),
        ("columns", twice, 1, "once"),
        ("columns", first_to(2**32 - 1), None, "has not"),
        ("rows", first_to(2**32 - 1), None, "has not"),
        ("rows", lambda s, rows: np.full_like(rows, rows[0]), 1, "'owner'"),
        ("data", first_to(np.nan), 1, "NaN"),
        ("bias", first_to(np.inf), 1, "NaN"),
        ("indices", first_to(2**16 - 1), None, "beyond"),
        ("indptr", first_to(1), None, "row pointers"),
        ("indptr", first_to(-1), None, "row pointers"),
    ],
)
def test_content_that_cannot_be_is_found_though_digests_fit(store, name, change, layer, message):
    rewrite(store, 0, name, change)
    findings = verify(store)
    assert any(message in f.message and f.part == 0 and f.layer == layer for f in findings), findings
    if layer is None or (name, layer) == ("columns", 2):
        opened = open_store(store)
        assert isinstance(attempt(lambda: (opened.block(0, 0), opened.comm_plan())), CorruptStoreError)


def test_falling_offsets(store):
    def fall(opened, table):
        table[4:8] = table[-4:] + 1
        return table.reshape(-1, 4)

    rewrite(store, 0, "offsets", fall)
    assert ("offsets", 0) in {(f.array, f.part) for f in verify(store)}
    with pytest.raises(CorruptStoreError, match="does not rise"):
        open_store(store).block(0, 0)


def test_an_owner_outside(store):
    owner = np.concatenate(open_store(store).owner)
    owner[0] = 3
    shutil.rmtree(store / "owner")
    entry = write_array(zarr.storage.LocalStore(store), "owner", owner)
    edit(store, lambda m: m.update(owner=entry.as_json()), "manifest")
    assert [f.array for f in verify(store)] == ["owner"]


@pytest.mark.parametrize("name", ["edges", "volume"])
def test_counts_that_are_not_so(store, name):
    def more(attributes):
        place = attributes if name == "edges" else attributes["partition"]
        place[name] += 1

    edit(store, more)
    (finding,) = verify(store)
    assert f"{name} is" in finding.message


def test_unknown_arrays_of_the_state_are_checked_too(store):
    """As a later release may add the moments of an optimizer."""
    entry = write_array(zarr.storage.LocalStore(store), "parts/0000/0000/state-000000/moment", np.ones(3, np.float32))
    edit(store, lambda m: m["windows"][0]["arrays"].update(moment=entry.as_json()), "manifest")
    assert verify(store) == []
    (store / "parts/0000/0000/state-000000/moment/c/0").unlink()
    assert [(f.part, f.array, f.layer) for f in verify(store)] == [(0, "moment", None)]


def test_unknown_keys_are_ignored_but_count_in_the_digests(store):
    """As later releases may add them without a new version."""

    def later(manifest):
        window = manifest["windows"][0]
        manifest["future"] = window["future"] = manifest["owner"]["future"] = window["arrays"]["data"]["future"] = [1.5]

    before = open_store(store).digest
    edit(store, lambda a: (a.update(future={"é": None}), a["partition"].update(future=1)))
    edit(store, later, "manifest")
    assert verify(store) == []
    assert open_store(store).digest != before
    assert (
        open_store(store).digest == json.loads((store / "manifest" / "zarr.json").read_text())["attributes"]["digest"]
    )
    record = json.loads((store / "zarr.json").read_text())
    record["attributes"]["future"] = 2
    (store / "zarr.json").write_text(json.dumps(record))
    assert len(verify(store)) == 1


def test_strangers_beside_the_arrays_do_no_harm(store):
    (store / "parts" / "0000" / "0000" / "state-000001").mkdir()
    (store / "notes.txt").write_text("mine")
    assert verify(store) == []


def test_what_is_no_store(store, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    zarr.create_group(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="f4")
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (file, "is a file"),
        (tmp_path / "empty", "no zarr.json"),
        (tmp_path / "group.zarr", "not a dasksdnn store"),
        (tmp_path / "array.zarr", "not a Zarr v3 group"),
        (tmp_path / ("x" * 5000), "cannot be looked at"),
    ):
        with pytest.raises(StoreError, match=message):
            open_store(path)
    shutil.rmtree(store / "manifest")
    with pytest.raises(CorruptStoreError, match="manifest is missing"):
        open_store(store)
    assert len(verify(store)) == 1
