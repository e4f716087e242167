import os
import pickle
import stat
import subprocess
import sys

import dask.array
import numpy as np
import pytest
import scipy.sparse
import sparse
import zarr

from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.sources.blocks import Dataset
from dasksdnn.sources.datasets import as_dataset, check_features, open_dataset, read_labels

SHAPE = (23, 7)


@pytest.fixture
def table():
    rng = np.random.default_rng(1)
    return (rng.random(SHAPE) * (rng.random(SHAPE) < 0.4)).astype(np.float32)


def dense(block):
    return block.toarray() if scipy.sparse.issparse(block) else block


def save_memmap(table, tmp_path):
    np.save(tmp_path / "m.npy", table)
    return np.load(tmp_path / "m.npy", mmap_mode="r")


def save_zarr(table, tmp_path, **options):
    array = zarr.create_array(tmp_path / "z.zarr", shape=SHAPE, dtype="f4", **{"chunks": (5, 4), **options})
    array[:] = table
    return array


def save_npz(table, tmp_path, form="csr"):
    scipy.sparse.save_npz(tmp_path / "s.npz", scipy.sparse.csr_array(table).asformat(form))
    return tmp_path / "s.npz"


def save_npy(table, tmp_path, dtype="<f4"):
    np.save(tmp_path / "d.npy", table.astype(dtype))
    return str(tmp_path / "d.npy")


def zarr_path(table, tmp_path, **options):
    save_zarr(table, tmp_path, **options)
    return tmp_path / "z.zarr"


KINDS = {
    "numpy": lambda t, p: t,
    "strided": lambda t, p: np.repeat(t, 2, axis=0)[::2],
    "memmap": save_memmap,
    "csr": lambda t, p: scipy.sparse.csr_array(t),
    "csr_matrix": lambda t, p: scipy.sparse.csr_matrix(t),
    "csc": lambda t, p: scipy.sparse.csc_array(t),
    "COO": lambda t, p: sparse.COO.from_numpy(t),
    "GCXS": lambda t, p: sparse.GCXS.from_numpy(t),
    "DOK": lambda t, p: sparse.DOK.from_numpy(t),
    "zarr3": save_zarr,
    "zarr2": lambda t, p: save_zarr(t, p, zarr_format=2),
    "shards": lambda t, p: save_zarr(t, p, shards=(10, 8)),
    "zarr path": zarr_path,
    "zarr2 path": lambda t, p: zarr_path(t, p, zarr_format=2),
    "dask": lambda t, p: dask.array.from_array(t, chunks=(6, 3)),
    "dask scipy": lambda t, p: dask.array.from_array(t, chunks=(6, 7)).map_blocks(scipy.sparse.csr_matrix),
    "dask sparse": lambda t, p: dask.array.from_array(t, chunks=(6, 3)).map_blocks(sparse.COO.from_numpy),
    "npz": save_npz,
    "npz csc": lambda t, p: save_npz(t, p, "csc"),
    "npz coo": lambda t, p: save_npz(t, p, "coo"),
    "npy": save_npy,
    "npy big-endian": lambda t, p: save_npy(t, p, ">f4"),
    "dataset": lambda t, p: as_dataset(t),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_the_same(table, tmp_path, kind):
    data = as_dataset(KINDS[kind](table, tmp_path))
    assert isinstance(data, Dataset)
    assert (data.samples, data.features) == SHAPE
    assert 1 <= data.block <= SHAPE[0]
    assert data.name
    for start, stop in [(0, 23), (0, 5), (4, 17), (22, 23), (9, 9)]:
        block = data.read(start, stop)
        assert block.shape == (stop - start, 7)
        assert scipy.sparse.issparse(block) <= (getattr(block, "format", "") == "csr")
        assert block.dtype.isnative
        np.testing.assert_array_equal(dense(block), table[start:stop])
        size = block.data.nbytes + block.indices.nbytes if scipy.sparse.issparse(block) else block.nbytes
        assert data.block_bytes(stop - start) >= size
    assert data.block_bytes(100) == data.block_bytes(23)
    for start, stop in [(-1, 3), (0, 24), (5, 4)]:
        with pytest.raises(InputError, match=f"samples {start} to {stop} asked for, of 23"):
            data.read(start, stop)
    data.close()
    data.close()


@pytest.mark.parametrize("kind", ["numpy", "csr", "zarr path", "npy", "npz", "dask"])
def test_datasets_travel(table, tmp_path, kind):
    again = pickle.loads(pickle.dumps(as_dataset(KINDS[kind](table, tmp_path))))
    np.testing.assert_array_equal(dense(again.read(3, 9)), table[3:9])


def test_blocks_follow_the_source(table, tmp_path):
    assert as_dataset(save_zarr(table, tmp_path)).block == 5
    assert as_dataset(dask.array.from_array(table, chunks=(6, 3))).block == 6
    assert as_dataset(np.zeros((10**6, 128), np.float32)).block == (16 << 20) // 512


def test_dask_computes_only_the_rows_asked_for_on_this_thread(table):
    seen = []

    def load(block, block_info=None):
        seen.append(block_info[0]["chunk-location"][0])
        return block

    data = as_dataset(dask.array.from_array(table, chunks=(6, 7)).map_blocks(load, dtype=table.dtype, meta=table[:0]))
    seen.clear()
    data.read(7, 11)
    assert seen == [1]


def test_memory_maps_of_every_mode(table, tmp_path):
    np.save(tmp_path / "m.npy", table)
    private = np.load(tmp_path / "m.npy", mmap_mode="c")
    private[0, 0] = 5
    data = as_dataset(private)
    data.read(0, 23)
    assert data.read(0, 1)[0, 0] == 5
    shared = np.load(tmp_path / "m.npy", mmap_mode="r+")
    shared[1, 1] = 6
    data = as_dataset(shared[1:])
    data.read(0, 22)
    assert data.read(0, 1)[0, 1] == 6
    assert not isinstance(data.read(0, 1), np.memmap)


@pytest.mark.parametrize("dtype", ["u1", "i8", "?", "f2", "f8"])
def test_dtypes_are_kept(table, tmp_path, dtype):
    for x in (table.astype(dtype), save_npy(table, tmp_path, dtype)):
        data = as_dataset(x)
        assert data.read(0, 2).dtype == dtype
        np.testing.assert_array_equal(data.read(0, 23), table.astype(dtype))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(3), "array: has 1 dimension; a dataset has 2"),
        (np.zeros((3, 4, 5)), "has 3 dimensions"),
        (np.zeros((3, 0)), "at least one feature"),
        (np.zeros((3, 4), complex), "values of dtype complex128"),
        (np.array([[object()]]), "values of dtype object"),
        (np.array([["a"]]), "values of dtype <U1"),
        (scipy.sparse.csr_array(np.ones((2, 2), complex)), "sparse array: values of dtype complex128"),
        (scipy.sparse.coo_array((np.ones(2), ([1, 1], [0, 0]))), "1 duplicate entries"),
        (scipy.sparse.csr_array(np.array([[1, 2], [3, np.inf]])), r"sample 1 \(from 0\) has a value that is NaN"),
        (sparse.COO.from_numpy(np.ones((2, 2)), fill_value=1), "fill value is 1"),
        (sparse.COO.from_numpy(np.ones(2)), "has 1 dimension"),
        (dask.array.ones(3), "has 1 dimension"),
        (dask.array.ones((4, 2))[dask.array.ones(4) > 0], "chunks of unknown size"),
        ([[1, 2]], "cannot be made of builtins.list"),
        (None, "cannot be made of builtins.NoneType"),
    ],
)
def test_bad_arrays(x, words):
    with pytest.raises(InputError, match=words) as caught:
        as_dataset(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["numpy", "memmap", "zarr3", "dask", "npy", "npy big-endian"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_sample(table, tmp_path, kind, value):
    table[11, 3] = value
    data = as_dataset(KINDS[kind](table, tmp_path))
    data.read(0, 11)
    with pytest.raises(InputError, match=r"sample 11 \(from 0\) has a value that is NaN or infinite"):
        data.read(5, 20)


def test_huge_values_are_no_fault():
    assert as_dataset(np.full((4, 4), 1e308)).read(0, 4).shape == (4, 4)


def test_check_features(table):
    data = as_dataset(table)
    check_features(data, 7)
    with pytest.raises(InputError, match="has 7 features, but the network reads 8; use"):
        check_features(data, 8)
    with pytest.raises(
        InputError, match="has 7 features, but the network reads 23; its 23 rows would fit: is it trans"
    ):
        check_features(data, 23)


def test_expected_sizes_are_checked(table, tmp_path):
    path = save_npy(table, tmp_path)
    assert open_dataset(path, features=7, samples=23).samples == 23
    with pytest.raises(InputError, match="has 7 features, but the network reads 9"):
        open_dataset(path, features=9)
    with pytest.raises(InputError, match="holds 23 samples, not 24"):
        open_dataset(path, samples=24)
    with pytest.raises(InputError, match="features: 0"):
        open_dataset(path, features=0)


def test_names_that_are_not_known(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_dataset(tmp_path / "none.npy")
    (tmp_path / "x.csv").touch()
    with pytest.raises(InputError, match=r"not a kind of dataset that is known by its name; use .tsv"):
        as_dataset(tmp_path / "x.csv")
    (tmp_path / "x.tsv").touch()
    with pytest.raises(InputError, match="give features"):
        open_dataset(tmp_path / "x.tsv")


def test_bad_zarr(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be opened as a Zarr array"):
        open_dataset(tmp_path / "empty")
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("inner", shape=(3, 2), dtype="f4")
    with pytest.raises(InputError, match=r"is a Zarr group; .* holds: inner"):
        open_dataset(tmp_path / "g.zarr")
    assert open_dataset(tmp_path / "g.zarr" / "inner").samples == 3
    zarr.create_array(tmp_path / "one.zarr", shape=(3,), dtype="f4")
    with pytest.raises(InputError, match="has 1 dimension"):
        open_dataset(tmp_path / "one.zarr")


def test_damaged_zarr_chunk(table, tmp_path):
    data = as_dataset(zarr_path(table, tmp_path))
    chunk = tmp_path / "z.zarr" / "c" / "0" / "0"
    chunk.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"z\.zarr: samples 0 to 5 cannot be read"):
        data.read(0, 5)
    np.testing.assert_array_equal(data.read(5, 10), table[5:10])


def test_npz_and_memory(tmp_path):
    matrix = scipy.sparse.csr_array(np.eye(300, dtype=np.float32))
    for form, factor in [("csr", 1), ("coo", 2)]:
        path = tmp_path / f"{form}.npz"
        scipy.sparse.save_npz(path, matrix.asformat(form))
        with pytest.raises(MemoryBudgetError, match=r"convert it to a Zarr array or an .npy file") as caught:
            open_dataset(path, memory=2000)
        assert caught.value.smallest > factor * 300 * 8
        assert open_dataset(path, memory=caught.value.smallest).samples == 300
        with pytest.raises(MemoryBudgetError):
            open_dataset(path, memory=caught.value.smallest - 1)


def test_npz_unsorted_and_duplicate(tmp_path):
    parts = {"format": b"csr", "shape": [1, 3], "data": np.array([1.0, 2.0]), "indptr": [0, 2]}
    np.savez(tmp_path / "a.npz", indices=[2, 0], **parts)
    assert open_dataset(tmp_path / "a.npz").read(0, 1).toarray().tolist() == [[2, 0, 1]]
    np.savez(tmp_path / "b.npz", indices=[1, 1], **parts)
    with pytest.raises(InputError, match=r"b\.npz: 1 duplicate entries"):
        open_dataset(tmp_path / "b.npz")


def test_bad_npy(table, tmp_path):
    path = tmp_path / "x.npy"
    for array, words in [
        (np.asfortranarray(table), "Fortran order"),
        (np.array([[object()]]), "values of dtype object"),
        (table.astype(complex), "values of dtype complex128"),
        (np.zeros((2, 2), [("a", "f4")]), "values of dtype"),
        (np.zeros(4), "has 1 dimension"),
    ]:
        np.save(path, array)
        with pytest.raises(InputError, match=words):
            open_dataset(path)
    np.save(path, table)
    whole = path.read_bytes()
    for body, words in [
        (whole[:-1], "bytes where its header promises .*: truncated"),
        (whole + b"x", "more follows than its header says"),
        (whole[:20], "not a sound NPY file"),
        (b"", "not a sound NPY file"),
        (b"rubbish rubbish", "not a sound NPY file"),
        (whole[:6] + b"\x07\x00" + whole[8:], r"not a sound NPY file|version"),
        (whole.replace(b"(23, 7)", b"(10**"), "not a sound NPY file"),
    ]:
        path.write_bytes(body)
        with pytest.raises(InputError, match=words) as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value)


def test_npy_that_shrinks_after_it_was_opened(table, tmp_path):
    data = open_dataset(save_npy(table, tmp_path))
    os.truncate(tmp_path / "d.npy", 300)
    with pytest.raises(InputError, match="ends within samples 0 to 23"):
        data.read(0, 23)
    (tmp_path / "d.npy").unlink()
    with pytest.raises(InputError, match="no such file"):
        data.read(0, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(table, tmp_path):
    path = save_npy(table, tmp_path)
    os.chmod(path, stat.S_IWUSR)
    with pytest.raises(InputError, match="no permission"):
        open_dataset(path)


def test_labels(tmp_path):
    for dtype in ("i1", ">i4", "u8", "?"):
        np.save(tmp_path / "t.npy", np.array([1, 0, 1], dtype))
        labels = read_labels(tmp_path / "t.npy")
        assert labels.tolist() == [1, 0, 1]
        assert labels.dtype == np.int64
    (tmp_path / "t.txt").write_text("5\n-1\n")
    assert read_labels(str(tmp_path / "t.txt")).tolist() == [5, -1]


def test_bad_labels(tmp_path):
    path = tmp_path / "t.npy"
    for array, words in [
        (np.zeros(3), "labels are one whole number a sample"),
        (np.zeros((3, 1), int), "labels are one whole number a sample"),
        (np.array([2**63], "u8"), "beyond int64"),
    ]:
        np.save(path, array)
        with pytest.raises(InputError, match=words):
            read_labels(path)
    np.save(path, np.arange(9))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="truncated"):
        read_labels(path)
    with pytest.raises(InputError, match="not a kind of labels"):
        read_labels(tmp_path / "t.csv")
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "t.tsv").write_text("1\nx\n")
    with pytest.raises(InputError, match="line 2: the label 'x'"):
        read_labels(tmp_path / "t.tsv")


def test_heavy_packages_are_not_imported_before_they_are_needed():
    script = (
        "import sys, dasksdnn.sources.datasets, dasksdnn.sources.images, dasksdnn.sources.graphchallenge\n"
        "print([name for name in ('zarr', 'dask', 'sparse', 'sklearn', 'numba', 'pyarrow') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
