import gzip
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.sources.blocks import shareable
from dasksdnn.sources.datasets import open_dataset, read_labels
from dasksdnn.sources.images import enlarge

SHARED = Path(__file__).resolve().parents[3] / "shared"
TYPES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array):
    code = TYPES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def put(path, body):
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a.idx3-ubyte", "a.idx", "a-idx3-ubyte.gz", "a.idx.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_pictures_become_rows(tmp_path, name, dtype):
    images = np.random.default_rng(0).integers(0, 100, (9, 4, 3)).astype(dtype)
    data = open_dataset(put(tmp_path / name, idx(images)), scratch=tmp_path)
    assert (data.samples, data.features) == (9, 12)
    rows = data.read(2, 7)
    assert rows.dtype == dtype
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, images[2:7].reshape(5, 12))
    data.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
def test_pictures_are_enlarged_by_block(tmp_path, name):
    images = np.random.default_rng(0).integers(0, 256, (70, 28, 28)).astype("u1")
    right = enlarge(images, 64)
    with closing(open_dataset(put(tmp_path / name, idx(images)), features=4096, enlarge=True)) as data:
        assert (data.samples, data.features, shareable(data) is not None) == (70, 4096, name == "a.idx")
        for start, stop in ((0, 70), (5, 6), (30, 70)):
            found = data.read(start, stop)
            assert found.dtype == np.float32
            assert found.has_canonical_format
            assert (found != right[start:stop]).nnz == 0


def test_reading_enlarged_pictures_takes_what_it_says(tmp_path):
    """Of black pictures, the worst there are."""
    put(tmp_path / "a.idx", idx(np.full((64, 28, 28), 255, "u1")))
    with closing(open_dataset(tmp_path / "a.idx", features=128**2, enlarge=True)) as data:
        data.read(0, 1)
        tracemalloc.start()
        try:
            data.read(0, 64)
            assert tracemalloc.get_traced_memory()[1] < data.block_bytes(64)
        finally:
            tracemalloc.stop()


def test_what_cannot_be_enlarged(tmp_path):
    put(tmp_path / "a.idx", idx(np.zeros((2, 3, 4), "u1")))
    put(tmp_path / "flat.idx", idx(np.zeros((2, 3), "u1")))
    np.save(tmp_path / "a.npy", np.zeros((2, 12)))
    for name, features, words in (
        ("a.idx", 15, "15 inputs are no square"),
        ("a.idx", None, "give features"),
        ("flat.idx", 16, r"shape \(3,\) are no pictures"),
        ("a.npy", 16, "pictures of an IDX file alone"),
    ):
        with pytest.raises(InputError, match=words):
            open_dataset(tmp_path / name, features=features, enlarge=True)


@pytest.mark.parametrize("name", ["a-idx1-ubyte", "a-idx1-ubyte.gz"])
def test_labels(tmp_path, name):
    path = put(tmp_path / name, idx(np.array([3, 200, 7], "u1")))
    assert read_labels(path).tolist() == [3, 200, 7]
    with pytest.raises(InputError, match="labels\\? Read it with read_labels"):
        open_dataset(path)
    with pytest.raises(InputError, match="not one whole number a sample"):
        read_labels(put(tmp_path / name, idx(np.zeros((2, 2), "u1"))))
    with pytest.raises(InputError, match="not one whole number a sample"):
        read_labels(put(tmp_path / name, idx(np.zeros(2, "f4"))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dimensions", [1, 3])
def test_damage(tmp_path, suffix, dimensions):
    sound = idx(np.zeros((50, 2, 2)[:dimensions], "u1"))
    read = read_labels if dimensions == 1 else open_dataset
    path = tmp_path / f"a-idx-ubyte{suffix}"
    huge = sound[:4] + b"\xff" * 4 * dimensions + b"x"
    for body, words in [
        (sound[:-1], "truncated"),
        (sound + b"x", "header (promises|says)"),
        (sound[:7], "ends within its header"),
        (sound[:2], "is not an IDX file: it begins with 0000"),
        (b"", "is not an IDX file: it begins with nothing"),
        (b"\x1f\x8b" + sound[2:], "is not an IDX file"),
        (sound[:2] + b"\x0a" + sound[3:], "is not an IDX file"),
        (huge, "truncated"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            read(put(path, body))
        assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_failed_gzip_leaves_no_scratch(tmp_path):
    path = tmp_path / "a-idx3-ubyte.gz"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    random = np.random.default_rng(0).integers(0, 256, (3000, 30, 30)).astype("u1")
    path.write_bytes(gzip.compress(idx(random))[:-100_000])
    with pytest.raises(InputError, match="truncated"):
        open_dataset(path, scratch=scratch)
    assert not list(scratch.iterdir())
    with pytest.raises(InputError, match=r"scratch: .*nowhere"):
        open_dataset(path, scratch=tmp_path / "nowhere")


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="MNIST is not beside the project (../shared)")
def test_mnist(tmp_path):
    data = open_dataset(SHARED / "mnist" / "t10k-images-idx3-ubyte.gz", scratch=tmp_path, features=784, samples=10_000)
    labels = read_labels(SHARED / "mnist" / "t10k-labels-idx1-ubyte.gz")
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.read(9990, 10_000).max() == 255
    data.close()
