"""Small stores for the tests of store/."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from networks import random_net, random_partition

import dasksdnn as sdnn


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A small sound store of three parts and several windows; copy it before changing it."""
    net = random_net(7, layers=4, widest=40)
    path = tmp_path_factory.mktemp("sound") / "net.zarr"
    store = sdnn.save(net, path, partition=random_partition(net, 3), window=1500)
    assert [w.last for w in store.windows(0)] == [2, 4]
    return path


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of the sound store, to be damaged."""
    return shutil.copytree(sound, tmp_path / "net.zarr")


@pytest.fixture
def same_network():
    """Compare two networks entry for entry."""

    def check(found, expected):
        assert (found.widths, found.dtype, len(found)) == (expected.widths, expected.dtype, len(expected))
        for a, b in zip(found, expected, strict=True):
            for name in ("indptr", "indices", "data"):
                np.testing.assert_array_equal(getattr(a.weights, name), getattr(b.weights, name))
            np.testing.assert_array_equal(a.bias, b.bias)
            assert a.activation == b.activation

    return check
