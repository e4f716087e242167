"""The challenge's work: whose pictures, how many of them, and which numbers are refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from dasksdnn.bench.challenge import challenge
from dasksdnn.errors import InputError
from dasksdnn.sources.images import digits, enlarge


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 7), np.uint8)


@pytest.fixture
def mnist(images, tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    header = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + images.tobytes()))
    return path


def same(a, b):
    return a.shape == b.shape and not (a != b).nnz


def test_pictures_of_a_file(mnist, images):
    assert same(challenge(64, 2, mnist=mnist).x, enlarge(images, 8))
    assert same(challenge(64, 2, mnist=mnist, samples=4).x, enlarge(images[:4], 8))


def test_digits_without_a_file():
    work = challenge(64, 3, samples=20)
    assert same(work.x, digits(8)[:20])
    assert work.multiply_adds == 20 * 3 * 64 * 32


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": 7}, "6 samples are there"),
        ({"neurons": 128}, "not a square"),
        ({"neurons": 100}, "power of two"),
        ({"layers": 0}, "layers"),
    ],
)
def test_unusable_numbers(numbers, says, mnist):
    with pytest.raises(InputError, match=says):
        challenge(**{"neurons": 64, "layers": 2, "mnist": mnist, **numbers})


def test_labels_are_no_pictures(tmp_path):
    path = tmp_path / "labels-idx1-ubyte"
    path.write_bytes(b"\0\0\x08\x01\0\0\0\x02\x01\x02")
    with pytest.raises(InputError, match="not pictures"):
        challenge(64, 2, mnist=path)
