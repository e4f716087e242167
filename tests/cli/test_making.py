"""Making stores: every generator and every import, each option."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import scipy.io
import scipy.sparse

import dasksdnn as sdnn
from dasksdnn.sources.generators import challenge_bias


def entries(layer):
    found = layer.weights.tocoo()
    return np.column_stack([found.col + 1, found.row + 1, found.data])


def write_challenge(folder, net, suffix=""):
    """The network as the Graph Challenge's files."""
    folder.mkdir()
    for k, layer in enumerate(net):
        text = "".join(f"{int(i)}\t{int(o)}\t{value:.9g}\n" for i, o, value in entries(layer)).encode()
        path = folder / f"n{net.widths[0]}-l{k + 1}.tsv{suffix}"
        path.write_bytes(gzip.compress(text) if suffix else text)


def same(store, net):
    assert store.widths == net.widths
    assert store.activations == tuple(layer.activation for layer in net)
    for k, layer in enumerate(net):
        mine = store.layer(k)
        assert (mine.weights != layer.weights).nnz == 0
        np.testing.assert_array_equal(mine.bias, layer.bias)


def test_radixnet(run, report, tmp_path):
    out = tmp_path / "net.zarr"
    found = report("generate", "radixnet", "--neurons", 64, "--layers", 5, "--out", out)
    same(sdnn.open_store(out), sdnn.radixnet(64, 5))
    assert found["command"] == "generate"
    assert (found["edges"], found["layers"], found["nparts"]) == (64 * 32 * 5, 5, 1)
    assert found["seconds"] > 0
    assert found["peak_rss_bytes"] > 1 << 20
    options = ["--weights", "random", "--bias", -0.25, "--clip", 8, "--dtype", "float64", "--seed", 3, "--overwrite"]
    run("generate", "radixnet", "--neurons", 64, "--layers", 5, *options, "--out", out)
    same(sdnn.open_store(out), sdnn.radixnet(64, 5, weights="random", bias=-0.25, clip=8, dtype="float64", seed=3))


@pytest.mark.parametrize("kind", ["random", "community"])
def test_other_generators(kind, run, tmp_path):
    options = ["--degree", 7, "--seed", 4, "--dtype", "float64"]
    run("generate", kind, "--neurons", 50, "--layers", 3, *options, "--out", tmp_path / "net.zarr")
    make = {"random": sdnn.random_network, "community": sdnn.community}[kind]
    same(sdnn.open_store(tmp_path / "net.zarr"), make(50, 3, degree=7, seed=4, dtype="float64"))


def test_what_is_printed(run, tmp_path):
    outcome = run("generate", "radixnet", "--neurons", 64, "--layers", 5, "--out", tmp_path / "net.zarr")
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[0] == f"generate: {tmp_path / 'net.zarr'}"
    assert any(line.split() == ["edges", "10,240"] for line in lines)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_graphchallenge(suffix, run, tmp_path):
    net = sdnn.radixnet(64, 3, weights="random")
    write_challenge(tmp_path / "files", net, suffix)
    where = ["--neurons", 64, "--layers", 3, "--weights", tmp_path / "files"]
    run("import", "graphchallenge", *where, "--out", tmp_path / "net.zarr")
    same(sdnn.open_store(tmp_path / "net.zarr"), net)
    assert sdnn.open_store(tmp_path / "net.zarr").layer(0).bias[0] == np.float32(challenge_bias(64))
    options = ["--bias", 0.5, "--clip", 2, "--dtype", "float64", "--overwrite", "--edges-per-neuron", 0]
    run("import", "graphchallenge", *where, *options, "--out", tmp_path / "net.zarr")
    store = sdnn.open_store(tmp_path / "net.zarr")
    assert (store.dtype, str(store.activations[0]), store.layer(2).bias[5]) == (np.float64, "clip:2", 0.5)


@pytest.fixture
def matrices():
    rng = np.random.default_rng(8)
    shapes = [(9, 14), (6, 9), (11, 6)]
    return [scipy.sparse.random_array(s, density=0.4, rng=rng, dtype=np.float32).tocsr() for s in shapes]


@pytest.mark.parametrize("orientation", ["outputs", "inputs"])
@pytest.mark.parametrize("kind", ["npz", "mtx"])
def test_matrices(kind, orientation, matrices, run, tmp_path):
    files = [tmp_path / f"{k}.{kind}" for k in range(3)]
    for path, matrix in zip(files, matrices, strict=True):
        turned = scipy.sparse.csr_array(matrix.T) if orientation == "inputs" else matrix
        if kind == "npz":
            scipy.sparse.save_npz(path, turned)
        else:
            scipy.io.mmwrite(path, turned, precision=9)
    options = ["--bias", 0.5, "--activation", "tanh", "--output-activation", "identity", "--orientation", orientation]
    run("import", kind, *files, *options, "--out", tmp_path / "net.zarr")
    right = sdnn.from_arrays(matrices, biases=0.5, activation="tanh", output_activation="identity")
    same(sdnn.open_store(tmp_path / "net.zarr"), right)


def test_matrix_market_in_float64(matrices, run, tmp_path):
    scipy.io.mmwrite(tmp_path / "a.mtx", matrices[0])
    run("import", "mtx", tmp_path / "a.mtx", "--dtype", "float64", "--out", tmp_path / "net.zarr")
    assert sdnn.open_store(tmp_path / "net.zarr").dtype == np.float64
