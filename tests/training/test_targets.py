"""Targets: whatever the user holds is taken, and what is wrong is named."""

from __future__ import annotations

import gzip
import struct

import dask.array
import numpy as np
import pytest
import scipy.sparse
import sparse
import zarr

from dasksdnn.errors import InputError
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.training import targets as module
from dasksdnn.training.targets import StoredTargets, class_targets, value_targets

LABELS = [2, 0, 1, 1, 2]


def save_idx(path, labels):
    content = struct.pack(">BBBBI", 0, 0, 8, 1, len(labels)) + bytes(labels)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        *(np.array(LABELS, kind) for kind in ("u1", "i2", "i8", "u8", "f4", "f8")),
        np.array(LABELS)[:, None],
        dask.array.from_array(np.array(LABELS), chunks=2),
        zarr.array(np.array(LABELS)),
        scipy.sparse.csr_array(np.array(LABELS)[:, None]),
        sparse.COO.from_numpy(np.array(LABELS)),
    ],
    ids=lambda labels: f"{type(labels).__module__}.{type(labels).__name__} {getattr(labels, 'dtype', '')}",
)
def test_labels_of_any_kind(labels):
    targets = class_targets(labels, 5, 3)
    taken = targets.take(np.array([4, 0, 0, 2]))
    assert taken.dtype == np.int64
    assert taken.tolist() == [2, 2, 2, 1]
    assert targets.nbytes == 5 * 8


def test_labels_of_two_classes_may_be_truth_values():
    assert class_targets([True, False, True], 3, 2).take(np.arange(3)).tolist() == [1, 0, 1]


def test_labels_in_files(tmp_path):
    np.save(tmp_path / "y.npy", np.array(LABELS))
    (tmp_path / "y.txt").write_text("".join(f"{label}\n" for label in LABELS))
    paths = [tmp_path / "y.npy", tmp_path / "y.txt"]
    paths += [save_idx(tmp_path / f"y-idx1-ubyte{end}", LABELS) for end in ("", ".gz")]
    for path in paths:
        for spelled in (path, str(path)):
            assert class_targets(spelled, 5, 3).take(np.arange(5)).tolist() == LABELS
    with pytest.raises(InputError, match="no such file"):
        class_targets(tmp_path / "none.npy", 5, 3)
    with pytest.raises(InputError, match="5 labels for 6 samples"):
        class_targets(paths[-1], 6, 3)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (LABELS[:-1], "there are 4 labels for 5 samples: give one for each"),
        ([], "there are 0 labels for 5 samples"),
        ([2, 0, 3, 4, 1], r"label of sample 2 \(from 0\) is 3: the network has 3 outputs, so labels run from 0 to 2"),
        ([2, -1, 3, 4, 1], r"label of sample 1 \(from 0\) is -1"),
        ([2, 2**63, 0, 0, 1], r"label of sample 1 \(from 0\) is 9"),
        ([2, 2**70, 0, 0, 1], "labels are of object"),
        ([0, 1, 1.5, 0, 0.5], r"label of sample 2 \(from 0\) is 1\.5: it must be a whole number"),
        ([0, 1, 1, np.nan, 0], r"label of sample 3 \(from 0\) is nan"),
        ([0, 1, 1, np.inf, 0], r"label of sample 3 \(from 0\) is inf"),
        (["cat", "dog", "cat", "dog", "cat"], "labels are of <U3: they must be whole numbers from 0 to 2"),
        ([0, 1, None, 1, 0], "labels are of object"),
        (np.array(LABELS, complex), "labels are of complex128"),
        (
            np.eye(3)[LABELS],
            r"shape \(5, 3\): give one class number a sample, as argmax\(axis=1\) makes of one-hot rows",
        ),
        (np.zeros((1, 5), int), r"shape \(1, 5\): give one class number a sample"),
        (np.zeros((5, 1, 1), int), r"shape \(5, 1, 1\): give one class number a sample$"),
        (3, r"shape \(\)"),
        ([[0], [1, 2], 0, 0, 0], "cannot be made an array"),
        (np.ma.masked_equal(LABELS, 1), "masked array: fill it first"),
    ],
)
def test_wrong_labels(labels, match):
    with pytest.raises(InputError, match=match):
        class_targets(labels, 5, 3)


VALUES = np.array([[0.5, 1.0], [0.0, 0.25], [1.0, 1.0]])


@pytest.mark.parametrize(
    "values",
    [
        VALUES.tolist(),
        VALUES,
        VALUES.astype("f4"),
        VALUES.astype(int),
        VALUES.astype(bool),
        dask.array.from_array(VALUES, chunks=(2, 1)),
        zarr.array(VALUES),
        scipy.sparse.csr_array(VALUES),
        sparse.GCXS.from_numpy(VALUES),
    ],
    ids=lambda values: f"{type(values).__module__}.{type(values).__name__} {getattr(values, 'dtype', '')}",
)
@pytest.mark.parametrize("shares", [False, True])
def test_values_of_any_kind(values, shares):
    kind = getattr(values, "dtype", np.dtype(float))
    targets = value_targets(values, 3, 2, shares=shares)
    np.testing.assert_array_equal(targets.take(np.array([2, 0])), VALUES.astype(kind)[[2, 0]])
    assert targets.nbytes == 6 * kind.itemsize  # in the dtype that they have


def test_one_output_takes_one_value_a_sample():
    for values in ([1.0, 2.0, 3.0], np.array([[1], [2], [3]])):
        assert value_targets(values, 3, 1).take(np.arange(3)).tolist() == [[1], [2], [3]]


def test_values_in_files(tmp_path):
    np.save(tmp_path / "y.npy", VALUES)
    scipy.sparse.save_npz(tmp_path / "y.npz", scipy.sparse.csr_array(VALUES))
    zarr.save_array(str(tmp_path / "y.zarr"), VALUES)
    for name in ("y.npy", "y.npz", "y.zarr"):
        np.testing.assert_array_equal(value_targets(tmp_path / name, 3, 2).take(np.arange(3)), VALUES)
    pictures = struct.pack(">BBBBII", 0, 0, 8, 2, 3, 2) + bytes([1, 2, 3, 4, 5, 6])
    (tmp_path / "y-idx2-ubyte.gz").write_bytes(gzip.compress(pictures))
    found = value_targets(tmp_path / "y-idx2-ubyte.gz", 3, 2).take(np.arange(3))
    assert found.tolist() == [[1, 2], [3, 4], [5, 6]]


def replaced(place, value):
    values = VALUES.copy()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (VALUES[:2], r"shape \(2, 2\), the outputs have \(3, 2\): give a value for each"),
        (VALUES.T, r"shape \(2, 3\), the outputs have \(3, 2\)"),
        (VALUES[:, 0], r"shape \(3,\), the outputs have \(3, 2\)"),
        (VALUES[None], r"shape \(1, 3, 2\)"),
        (replaced((2, 0), np.nan), r"target of sample 2 \(from 0\) is NaN or infinite"),
        (replaced((1, 1), -np.inf), r"target of sample 1 \(from 0\) is NaN or infinite"),
        (VALUES.astype(complex), "targets are of complex128: they must be numbers"),
        (VALUES.astype(str), "targets are of <U32"),
        (np.ma.masked_less(VALUES, 0.5), "masked array"),
    ],
)
def test_wrong_values(values, match):
    with pytest.raises(InputError, match=match):
        value_targets(values, 3, 2)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255])
def test_shares_are_from_0_to_1(value):
    values = replaced((1, 0), value)
    value_targets(values, 3, 2)
    with pytest.raises(InputError, match=r"target of sample 1 \(from 0\) is not from 0 to 1"):
        value_targets(values, 3, 2, shares=True)
    with pytest.raises(InputError, match=r"sample 1 .* NaN"):
        value_targets(replaced((1, 0), np.nan), 3, 2, shares=True)


MANY = np.arange(40.0).reshape(20, 2) / 40


def save_values(path):
    np.save(path, MANY)
    return path


BY_BLOCK = {
    "dask": lambda p: dask.array.from_array(MANY, chunks=(3, 1)),
    "zarr": lambda p: zarr.create_array(p / "z", data=MANY, chunks=(4, 2)),
    "npy": lambda p: save_values(p / "t.npy"),
    "dataset": lambda p: as_dataset(MANY),
    "sparse dataset": lambda p: as_dataset(scipy.sparse.csr_array(MANY)),
}


@pytest.mark.parametrize("cache", [module.CACHE_BYTES, 64])
@pytest.mark.parametrize("kind", BY_BLOCK)
def test_many_values_are_read_by_block(kind, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", cache)
    monkeypatch.setattr(module, "PIECES", 2)
    found = value_targets(BY_BLOCK[kind](tmp_path), 20, 2, shares=True)
    assert isinstance(found, StoredTargets) == (cache == 64)
    for samples in ([19, 0, 0, 7], [2], list(range(20)), []):
        np.testing.assert_array_equal(found.take(np.array(samples, np.int64)), MANY[samples])
    assert found.nbytes >= min(cache, MANY.nbytes)


def test_pieces_used_last_are_held(monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 64)
    monkeypatch.setattr(module, "PIECES", 4)
    source, seen = as_dataset(MANY), []
    plain = source.read
    source.read = lambda start, stop: (seen.append(start), plain(start, stop))[1]
    found = StoredTargets(source)
    for sample in (0, 1, 2, 3, 0, 1):
        found.take(np.array([sample]))
    assert seen == [0, 1, 2, 3]
    found.take(np.array([4]))  # in the place of 2, which was used longest ago
    found.take(np.array([3, 0, 1, 4]))
    assert seen == [0, 1, 2, 3, 4]
    found.take(np.array([2]))
    assert seen == [0, 1, 2, 3, 4, 2]
    assert len(found._held) == 4


@pytest.mark.parametrize(
    ("wrong", "match"),
    [(np.nan, r"sample 13 \(from 0\) has a value that is NaN"), (2.0, r"sample 13 \(from 0\) is not from 0 to 1")],
)
def test_values_read_by_block_are_checked_then(tmp_path, monkeypatch, wrong, match):
    monkeypatch.setattr(module, "CACHE_BYTES", 64)
    monkeypatch.setattr(module, "PIECES", 2)
    values = MANY.copy()
    values[13, 1] = wrong
    found = value_targets(zarr.create_array(tmp_path / "z", data=values, chunks=(5, 2)), 20, 2, shares=True)
    assert found.take(np.arange(8)).shape == (8, 2)
    with pytest.raises(InputError, match=match):
        found.take(np.array([1, 13]))


def test_shapes_of_values_read_by_block_are_checked_before(monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 64)
    with pytest.raises(InputError, match=r"shape \(20, 2\), the outputs have \(20, 3\)"):
        value_targets(as_dataset(MANY), 20, 3)
