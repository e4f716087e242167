"""Outputs against labels and categories: whole, and block by block."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from dasksdnn.diagnostics.evaluation import accuracy, compare_categories
from dasksdnn.errors import InputError


@pytest.fixture
def outputs(tmp_path):
    """Sixty samples, every fourth all zero, in chunks of seven; and the values."""
    y = np.random.default_rng(0).random((60, 5), np.float32)
    y[::4] = 0
    zarr.create_array(str(tmp_path / "y.zarr"), data=y, chunks=(7, 5))
    return tmp_path / "y.zarr", y


def write_list(path, ids):
    path.write_text("".join(f"{n}\n" for n in ids))
    return path


def test_categories(outputs, tmp_path):
    path, y = outputs
    right = (np.flatnonzero(y.any(axis=1)) + 1).tolist()
    found = compare_categories(path, write_list(tmp_path / "right.tsv", right))
    assert found == {"match": True, "found": 45, "expected": 45, "missing": [], "unexpected": []}
    other = write_list(tmp_path / "other.tsv", [1, *right[2:]])
    found = compare_categories(path, other)
    assert (found["match"], found["missing"], found["unexpected"]) == (False, [1], right[:2])
    assert compare_categories(tmp_path / "right.tsv", other)["missing"] == [1]


def test_negative_outputs_count_as_outputs(tmp_path):
    zarr.create_array(str(tmp_path / "y.zarr"), data=np.array([[0, -1.0], [0, 0]]))
    assert compare_categories(tmp_path / "y.zarr", write_list(tmp_path / "right.tsv", [1]))["match"]


def test_no_categories_at_all(tmp_path):
    zarr.create_array(str(tmp_path / "y.zarr"), data=np.zeros((4, 3)))
    (tmp_path / "none.tsv").write_text("")
    assert compare_categories(tmp_path / "y.zarr", tmp_path / "none.tsv")["match"]
    assert not compare_categories(tmp_path / "none.tsv", write_list(tmp_path / "one.tsv", [2]))["match"]


@pytest.mark.parametrize("name", ["labels.npy", "labels.txt"])
def test_accuracy(name, outputs, tmp_path):
    path, y = outputs
    labels = y.argmax(axis=1)
    labels[:6] = (labels[:6] + 1) % 5
    if name.endswith(".npy"):
        np.save(tmp_path / name, labels)
    else:
        write_list(tmp_path / name, labels)
    assert accuracy(path, tmp_path / name) == {"samples": 60, "correct": 54, "accuracy": 0.9}


def test_what_cannot_be_compared(outputs, tmp_path):
    path, _ = outputs
    with pytest.raises(InputError, match=r"59 labels.*60 samples"):
        accuracy(path, write_list(tmp_path / "few.txt", range(59)))
    with pytest.raises(InputError, match="5 classes"):
        accuracy(path, write_list(tmp_path / "high.txt", [5] * 60))
    with pytest.raises(InputError, match="list of categories"):
        accuracy(tmp_path / "few.txt", tmp_path / "few.txt")
