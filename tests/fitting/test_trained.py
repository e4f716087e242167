"""A trained network's store: as long as somebody holds it, and again where a pickle arrives."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.errors import OutputExistsError
from dasksdnn.fitting.trained import Trained, outputs
from dasksdnn.partition.partition import partition
from dasksdnn.store.verify import verify

NET = sdnn.random_sparse([5, 12, 4], [0.5, 1.0])


def test_a_copy_writes_one_store_when_it_is_needed():
    part = partition(NET, 3, method="block")
    copy = pickle.loads(pickle.dumps(Trained.write(NET, None, part, overwrite=False)))
    assert copy.scratch is None
    with ThreadPoolExecutor(8) as pool:
        paths = {store.path for store in pool.map(lambda _: copy.store, range(8))}
    assert paths == {copy.scratch.path / "net.zarr"}
    assert verify(copy.store.path) == []
    assert all((a == b).all() for a, b in zip(copy.store.owner, part.owner, strict=True))
    for ours, theirs in zip(copy.store.network, NET, strict=True):
        assert (ours.weights != theirs.weights).nnz == 0
        assert (ours.bias == theirs.bias).all()


def test_a_place_of_the_users_stays(tmp_path):
    trained = Trained.write(NET, tmp_path / "net.zarr", None, overwrite=False)
    assert trained.scratch is None
    with pytest.raises(OutputExistsError):
        Trained.write(NET, tmp_path / "net.zarr", None, overwrite=False)
    del trained
    assert verify(tmp_path / "net.zarr") == []


def test_reloading_sees_what_training_made():
    trained = Trained.write(NET, None, None, overwrite=False)
    rng = np.random.default_rng(0)
    sdnn.train(trained.store, rng.random((40, 5), np.float32), rng.integers(0, 4, 40), epochs=1)
    before = trained.store.generation
    trained.reload()
    assert (before, trained.store.generation) == (0, 1)


def test_outputs_are_finished_alike_in_memory_and_by_block():
    trained = Trained.write(NET, None, None, overwrite=False)
    x = np.random.default_rng(0).random((9, 5), np.float32)
    whole = sdnn.infer(trained.store, x).compute()
    for finish in (lambda z: z * 2, lambda z: z.argmax(axis=1)):
        lazy = outputs(trained, da.from_array(x, chunks=(4, 3)), finish)
        assert lazy.dtype == finish(whole).dtype
        assert lazy.shape == finish(whole).shape
        assert (outputs(trained, x, finish) == finish(whole)).all()
        assert (lazy.compute() == finish(whole)).all()
