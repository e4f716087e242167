import gzip
from pathlib import Path

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.sources.images import digit_labels, digits, enlarge
from dasksdnn.sources.spool import SpooledText

SHARED = Path(__file__).resolve().parents[3] / "shared"


def test_digits():
    images, labels = digits(), digit_labels()
    assert images.shape == (1797, 1024)
    assert images.format == "csr"
    assert images.dtype == np.float32
    assert (images.data == 1).all()
    assert images.has_canonical_format
    assert labels.shape == (1797,)
    assert np.bincount(labels).min() > 170
    assert 0.1 < images.nnz / 1797 / 1024 < 0.3
    assert digits(64).shape == (1797, 4096)
    assert digits(32, 100).nnz > images.nnz


def test_pictures_are_flattened_by_column():
    picture = np.zeros((1, 4, 4), np.uint8)
    picture[0, 0, 3] = 255
    assert enlarge(picture, 4).toarray().reshape(4, 4).argmax() == 12
    large = enlarge(picture, 16).toarray().reshape(16, 16).T
    assert large[:2, -2:].all()
    assert large[:, :8].sum() == large[8:].sum() == 0


def test_interpolation_is_linear():
    ramp = np.broadcast_to(np.arange(0, 80, 10, np.uint8), (1, 8, 8))
    for threshold in (5, 25.1, 60):
        large = enlarge(ramp, 32, threshold).toarray().reshape(32, 32).T
        place = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7) * 10
        assert np.array_equal(large[0], place > threshold)


def test_blocks_do_not_matter():
    grey = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    whole, cut = enlarge(grey, 32), enlarge(grey, 32, block_bytes=1)
    assert (whole != cut).nnz == 0
    assert enlarge(grey[:0], 32).shape == (0, 1024)
    assert enlarge(grey[:, :14], 32).shape == (50, 1024)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="MNIST is not beside the project (../shared)")
def test_agrees_with_the_published_inputs(tmp_path):
    raw = gzip.decompress((SHARED / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 1200 * 784]
    mine = enlarge(np.frombuffer(raw, np.uint8).reshape(1200, 28, 28), 32)
    source = SpooledText(SHARED / "graphchallenge" / "sparse-images-1024_first1200.tsv.gz", 1024, 1200, tmp_path)
    published = source.read(0, 1200)
    source.close()
    assert (mine != published).nnz < 0.01 * 1200 * 1024


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\)"),
        (np.zeros((3, 0, 4)), r"shape \(3, 0, 4\)"),
        (np.zeros((1, 2, 2), complex), "complex"),
        (np.array([[[0.0]], [[np.nan]]]), "picture 1 has a NaN"),
    ],
)
def test_bad_pictures(images, words):
    with pytest.raises(InputError, match=words):
        enlarge(images, 8)


def test_bad_sizes():
    with pytest.raises(InputError, match="side: 0"):
        digits(0)
    with pytest.raises(InputError, match="threshold"):
        digits(8, float("nan"))
