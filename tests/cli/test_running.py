"""Partition, plan, infer, evaluate: every option, every kind of input, what is printed and what is written as JSON."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import scipy.sparse
import zarr

import dasksdnn as sdnn
from dasksdnn.kernels import reference
from dasksdnn.partition.start import METHODS
from dasksdnn.sources.images import enlarge


@pytest.mark.parametrize("method", METHODS)
def test_partition(method, net, store, report, tmp_path, little_effort):
    options = ["--nparts", 3, "--method", method, "--epsilon", 0.1, "--seed", 2]
    found = report("partition", store, *options, "--out", tmp_path / "out.zarr")
    made = sdnn.partition(net, 3, method=method, epsilon=0.1, seed=2)
    for name in ("volume", "messages", "max_send", "imbalance"):
        assert found[name] == getattr(made, name)
    assert found["seconds"] >= found["partition_seconds"] > 0
    assert found["peak_rss_bytes"] > 1 << 20
    opened = sdnn.open_store(tmp_path / "out.zarr")
    assert opened.nparts == 3
    for mine, theirs in zip(opened.owner, made.owner, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_partition_in_place(store, run):
    run("partition", store, "--nparts", 2, "--method", "block", "--out", store, "--overwrite")
    assert sdnn.open_store(store).nparts == 2


def test_plan(store, report, run):
    found = report("plan", store, "--samples", 100, "--memory", "1GiB", "--threads", 1)
    assert found["plan"]["budget_bytes"] == 1 << 30
    printed = run("plan", store, "--samples", 100, "--memory", "1GiB").out
    assert "chosen" in printed


def tsv(samples):
    row, column = np.nonzero(samples)
    lines = [f"{r + 1}\t{c + 1}\t{samples[r, c]:g}\n" for r, c in zip(row, column, strict=True)]
    return "".join(lines).encode()


def idx(samples):
    head = bytes([0, 0, 8, 3]) + np.array([len(samples), 8, 8], ">u4").tobytes()
    return head + samples.astype(np.uint8).tobytes()


WRITERS = {
    "x.tsv": lambda path, x: path.write_bytes(tsv(x)),
    "x.tsv.gz": lambda path, x: path.write_bytes(gzip.compress(tsv(x))),
    "x.npz": lambda path, x: scipy.sparse.save_npz(path, scipy.sparse.csr_array(x)),
    "x.npy": np.save,
    "x-idx3-ubyte": lambda path, x: path.write_bytes(idx(x)),
    "x-idx3-ubyte.gz": lambda path, x: path.write_bytes(gzip.compress(idx(x))),
    "x.zarr": lambda path, x: zarr.create_array(str(path), data=x, chunks=(16, 64)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_infer_reads(name, net, samples, store3, report, tmp_path):
    WRITERS[name](tmp_path / name, samples)
    outputs, categories = tmp_path / "y.zarr", tmp_path / "c.tsv"
    options = ["--output", outputs, "--categories", categories, "--memory", "4GiB", "--threads", 1]
    found = report("infer", store3, "--input", tmp_path / name, "--samples", 40, *options)
    right = reference.infer(net, samples)
    np.testing.assert_allclose(zarr.open_array(outputs, mode="r")[:], right, rtol=1e-5, atol=1e-6)
    alive = (np.flatnonzero(right.any(axis=1)) + 1).tolist()
    assert 0 < len(alive) < 40
    assert found["categories"] == alive
    assert categories.read_text().split() == [str(n) for n in alive]
    assert (found["samples"], found["edges"]) == (40, net.edges)
    assert found["edges_per_second"] == pytest.approx(40 * net.edges / found["seconds"])
    assert found["peak_rss_bytes"] <= found["plan"]["budget_bytes"] == 4 << 30


def test_infer_counts_the_samples_of_a_tsv(samples, store, report, tmp_path):
    (tmp_path / "x.tsv").write_bytes(tsv(samples))
    assert report("infer", store, "--input", tmp_path / "x.tsv")["samples"] == 39  # the last, all zero, has no line
    assert report("infer", store, "--input", tmp_path / "x.tsv", "--samples", 50)["samples"] == 50


def test_infer_enlarges_pictures(net, samples, store3, report, refused, tmp_path):
    small = np.zeros((40, 16), np.uint8)
    small[np.arange(40), np.arange(40) % 16] = 255
    (tmp_path / "x.idx").write_bytes(bytes([0, 0, 8, 3]) + np.array([40, 4, 4], ">u4").tobytes() + small.tobytes())
    options = ["--output", tmp_path / "y.zarr", "--enlarge"]
    report("infer", store3, "--input", tmp_path / "x.idx", *options)
    right = reference.infer(net, enlarge(small.reshape(40, 4, 4), 8).toarray())
    np.testing.assert_allclose(zarr.open_array(tmp_path / "y.zarr", mode="r")[:], right, rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "x.npy", samples)
    refused("infer", store3, "--input", tmp_path / "x.npy", "--enlarge", says=["pictures of an IDX file alone"])


def test_infer_keeps_nothing_that_it_is_not_asked_to(npy, store, run, snapshot):
    before = snapshot()
    printed = run("infer", store, "--input", npy)
    assert snapshot() == before
    assert "categories" in printed.out
    assert printed.err == ""


def test_infer_overwrites_where_it_is_asked_to(npy, store, run, tmp_path):
    outputs, categories = tmp_path / "y.zarr", tmp_path / "c.tsv"
    zarr.create_array(str(outputs), data=np.ones((2, 3)))
    categories.write_text("old")
    run("infer", store, "--input", npy, "--output", outputs, "--categories", categories, "--overwrite")
    assert zarr.open_array(outputs, mode="r").shape == (40, 64)
    assert categories.read_text() != "old"


def test_budget_from_the_settings(npy, store, refused, monkeypatch):
    import dask.config

    with dask.config.set({"dasksdnn.memory": "1MiB"}):
        refused("infer", store, "--input", npy, says=["smallest"])


@pytest.fixture
def outputs(npy, store, run, tmp_path):
    run("infer", store, "--input", npy, "--output", tmp_path / "y.zarr", "--categories", tmp_path / "c.tsv")
    return tmp_path / "y.zarr"


def test_evaluate_categories(outputs, report, run, tmp_path):
    same = report("evaluate", outputs, "--categories", tmp_path / "c.tsv")
    assert same["match"] is True
    assert same["missing"] == same["unexpected"] == []
    printed = run("evaluate", tmp_path / "c.tsv", "--categories", tmp_path / "c.tsv").out
    assert "none" in printed
    ids = (tmp_path / "c.tsv").read_text().split()
    (tmp_path / "other.tsv").write_text("\n".join([*ids[12:], "1"]))
    other = report("evaluate", outputs, "--categories", tmp_path / "other.tsv", status=1)
    assert (other["match"], other["missing"], len(other["unexpected"])) == (False, [1], 12)
    printed = run("evaluate", outputs, "--categories", tmp_path / "other.tsv", status=1).out
    assert "(12 in all)" in printed


def test_evaluate_labels(outputs, report, tmp_path):
    labels = zarr.open_array(outputs, mode="r")[:].argmax(axis=1)
    labels[:10] = (labels[:10] + 1) % 64
    np.save(tmp_path / "labels.npy", labels)
    found = report("evaluate", outputs, "--labels", tmp_path / "labels.npy")
    assert (found["samples"], found["correct"], found["accuracy"]) == (40, 30, 0.75)


def test_evaluate_needs_one_thing_to_compare_with(outputs, refused, tmp_path):
    refused("evaluate", outputs, says=["--categories", "--labels"])
    both = ["--categories", tmp_path / "c.tsv", "--labels", tmp_path / "c.tsv"]
    refused("evaluate", outputs, *both, says=["either"])
