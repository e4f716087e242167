import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from dasksdnn.errors import InputError
from dasksdnn.sources.arrays import from_arrays, from_mtx, from_npz


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return [
        scipy.sparse.random_array((m, n), density=0.4, rng=rng, dtype=np.float32, format="csr")
        for m, n in [(6, 5), (4, 6), (3, 4)]
    ]


MAKERS = {
    "csr": lambda m: m,
    "csc": lambda m: m.tocsc(),
    "coo": lambda m: m.tocoo(),
    "lil": lambda m: m.tolil(),
    "matrix": scipy.sparse.csr_matrix,
    "dense": lambda m: m.toarray(),
    "list": lambda m: m.toarray().tolist(),
    "COO": lambda m: sparse.COO.from_scipy_sparse(m),
    "GCXS": lambda m: sparse.GCXS.from_scipy_sparse(m),
    "GCXS1": lambda m: sparse.GCXS.from_numpy(m.toarray(), compressed_axes=(1,)),
    "DOK": lambda m: sparse.DOK.from_scipy_sparse(m),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_matrix(matrices, kind):
    net = from_arrays([MAKERS[kind](m) for m in matrices], activation="tanh", output_activation="identity")
    assert net.widths == (5, 6, 4, 3)
    assert net.edges == sum(m.nnz for m in matrices)
    assert net.dtype == (np.float64 if kind == "list" else np.float32)
    for layer, matrix in zip(net, matrices, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), matrix.toarray())
        assert not layer.bias.any()
    assert [str(layer.activation) for layer in net] == ["tanh", "tanh", "identity"]


def test_orientation(matrices):
    net = from_arrays([m.T for m in matrices], orientation="inputs")
    np.testing.assert_array_equal(net[1].weights.toarray(), matrices[1].toarray())
    assert net.widths == (5, 6, 4, 3)


def test_biases(matrices):
    assert from_arrays(matrices, biases=0.5)[1].bias.tolist() == [0.5] * 4
    net = from_arrays(matrices, biases=[1, np.arange(4), None])
    assert net[0].bias.tolist() == [1.0] * 6
    assert net[1].bias.tolist() == [0, 1, 2, 3]
    assert net[2].bias.tolist() == [0, 0, 0]
    for biases, words in [
        ([1, 2], "biases: 2 for 3 layers"),
        ("x", "biases: 'x' is not a number"),
        (float("inf"), "biases: inf"),
        ([0, np.zeros(5), 0], r"layer 2: bias has shape \(5,\)"),
        ([0, np.zeros(4, complex), 0], "layer 2: bias: values of dtype complex128"),
    ]:
        with pytest.raises(InputError, match=words):
            from_arrays(matrices, biases=biases)


def test_dtypes(matrices):
    assert from_arrays([m.astype(np.float64) for m in matrices]).dtype == np.float64
    assert from_arrays([m.astype(np.int16) for m in matrices]).dtype == np.float32
    assert from_arrays([m.astype(np.int64) for m in matrices]).dtype == np.float64
    assert from_arrays([m.toarray().astype(np.float16) for m in matrices])[0].weights.dtype == np.float32
    assert from_arrays([m.astype(np.float64) for m in matrices], dtype="float32")[0].weights.dtype == np.float32
    with pytest.raises(InputError, match="NaN or infinite"):
        from_arrays([np.full((2, 2), 1e300)], dtype="float32")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([], "the list of matrices is empty"),
        ([np.ones(3)], "layer 1: has 1 dimension;"),
        ([np.ones((2, 3)), np.ones((2, 3))], "layer 2: 2 outputs x 3 inputs does not follow layer 1: 2 outputs"),
        ([np.ones((2, 2), complex)], "layer 1: values of dtype complex128"),
        ([np.array([[object()]])], "layer 1: values of dtype object"),
        ([np.ones((2, 2), np.longdouble)], "layer 1: values of dtype"),
        ([np.array([["a"]])], "layer 1: values of dtype"),
        ([[[1, 2], [3]]], "layer 1: is not a matrix"),
        ([np.array([[1, np.nan]])], "layer 1: row 0 has a weight that is NaN"),
        ([np.ones((0, 3))], "at least one neuron"),
        ([sparse.COO.from_numpy(np.ones((2, 2)), fill_value=1)], "layer 1: the fill value is 1"),
        ([sparse.COO.from_numpy(np.ones((2, 2, 2)))], "layer 1: has 3 dimensions"),
        ([scipy.sparse.coo_array((np.ones(2), ([1, 1], [0, 0])))], "layer 1: 1 duplicate .* row 1, column 0"),
    ],
)
def test_bad_matrices(held, words):
    with pytest.raises(InputError, match=words) as caught:
        from_arrays(held)
    assert "\n" not in str(caught.value)


def test_bad_orientation(matrices):
    with pytest.raises(InputError, match="orientation: 'rows'"):
        from_arrays(matrices, orientation="rows")


@settings(max_examples=50, deadline=None)
@given(numpy_arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)))
def test_dense_round_trip(dense):
    np.testing.assert_array_equal(from_arrays([dense])[0].weights.toarray(), dense)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("compressed", [True, False])
def test_npz(tmp_path, matrices, form, compressed):
    files = [tmp_path / f"w{k}.npz" for k in range(3)]
    for file, matrix in zip(files, matrices, strict=True):
        scipy.sparse.save_npz(file, matrix.asformat(form), compressed=compressed)
    net = pickle.loads(pickle.dumps(from_npz(files, biases=[0, 1, 2])))
    assert net.widths == (5, 6, 4, 3)
    assert net.dtype == np.float32
    for layer, matrix in zip(net, matrices, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), matrix.toarray())
    assert net[2].bias.tolist() == [2, 2, 2]
    with pytest.raises(InputError, match=r"w0\.npz: .* does not follow .*w1\.npz"):
        from_npz(files[1::-1])


def test_bad_npz(tmp_path):
    path = tmp_path / "w.npz"
    with pytest.raises(InputError, match="no such file"):
        from_npz([path])
    path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"w\.npz: is not a sound NPZ file"):
        from_npz([path])
    np.savez(path, a=np.ones(3))
    with pytest.raises(InputError, match="holds no sparse matrix"):
        from_npz([path])
    np.savez(path, format=b"csr", shape=[1, 1], data=np.array([object()]))
    with pytest.raises(InputError, match=r"w\.npz"):
        from_npz([path])
    scipy.sparse.save_npz(path, scipy.sparse.csr_array(np.ones((2, 2), complex)))
    with pytest.raises(InputError, match="dtype complex128"):
        from_npz([path])
    np.savez(path, format=b"csr", shape=[2], data=np.ones(1))
    with pytest.raises(InputError, match="has 2 dimensions"):
        from_npz([path])


def test_npz_with_bad_content(tmp_path):
    path = tmp_path / "w.npz"
    good = {"format": b"csr", "shape": [2, 2], "data": np.ones(2), "indices": [0, 1], "indptr": [0, 1, 2]}
    for change in (
        {"indices": [0, 7]},
        {"indices": [0, -1]},
        {"indptr": [0, 2, 1]},
        {"indptr": [0, 1]},
        {"format": b"odd"},
        {"indptr": [0, 1, 9]},
    ):
        np.savez(path, **{**good, **change})
        net = from_npz([path])
        with pytest.raises(InputError, match=r"w\.npz: is not a sound sparse matrix"):
            net[0]
    scipy.sparse.save_npz(path, scipy.sparse.csr_array(np.ones((200, 200))), compressed=False)
    body = bytearray(path.read_bytes())
    body[5000] ^= 1
    path.write_bytes(body)
    with pytest.raises(InputError, match=r"w\.npz"):
        from_npz([path])[0]


def test_npz_whose_header_lies_about_its_size(tmp_path):
    path = tmp_path / "w.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_array(np.ones((2, 2))))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["data.npy"] = header.getvalue()
    with zipfile.ZipFile(path, "w") as new:
        for name, body in members.items():
            new.writestr(name, body)
    with pytest.raises(InputError, match=r"w\.npz"):
        from_npz([path])[0]


@pytest.mark.parametrize("suffix", ["mtx", "mtx.gz"])
def test_mtx(tmp_path, matrices, suffix):
    files = [tmp_path / f"w{k}.{suffix}" for k in range(3)]
    for file, matrix in zip(files, matrices, strict=True):
        body = io.BytesIO()
        scipy.io.mmwrite(body, matrix, comment="a comment\nof two lines", precision=9)
        file.write_bytes(gzip.compress(body.getvalue()) if suffix.endswith("gz") else body.getvalue())
    net = from_mtx(files)
    assert net.dtype == np.float32
    assert net.widths == (5, 6, 4, 3)
    for layer, matrix in zip(net, matrices, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), matrix.toarray())
    with pytest.raises(InputError, match="does not follow"):
        from_mtx(files[::-1])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("coordinate pattern general\n2 2 2\n1 1\n2 1\n", [[1, 0], [1, 0]]),
        ("coordinate real symmetric\n2 2 2\n1 1 3\n2 1 4\n", [[3, 4], [4, 0]]),
        ("coordinate integer general\n%c\n\n2 2 1\n1 2 5\n", [[0, 5], [0, 0]]),
        ("array real general\n2 2\n1\n0\n3\n4\n", [[1, 3], [0, 4]]),
        ("coordinate real general\n2 2 0\n", [[0, 0], [0, 0]]),
    ],
)
def test_mtx_kinds(tmp_path, body, expected):
    path = tmp_path / "w.mtx"
    path.write_text("%%MatrixMarket matrix " + body)
    np.testing.assert_array_equal(from_mtx([path], dtype="float64")[0].weights.toarray(), expected)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("rubbish", "is not a Matrix Market file"),
        ("%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1 1\n", "complex numbers"),
        ("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n", "1 entries where its header says 2; trunc"),
        ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 1x\n", "line 3: the value '1x' is not a number"),
        ("%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n", "line 3: the row '3' is beyond"),
        ("%%MatrixMarket matrix coordinate pattern general\n2 2 2\n1 1\n", "not a sound Matrix Market file"),
        ("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n1 1 1\n", "1 duplicate entries"),
    ],
)
def test_bad_mtx(tmp_path, body, words):
    path = tmp_path / "w.mtx"
    path.write_text(body)
    with pytest.raises(InputError, match=words) as caught:
        from_mtx([path])[0]
    assert "w.mtx" in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        from_mtx([tmp_path / "none.mtx"])
