"""A whole run by many ranks: the same history and weights as by one, checkpoints, and going on with other ranks."""

from __future__ import annotations

import numpy as np
import pytest
from networks import random_partition
from ranks import run_ranks

import dasksdnn as sdnn
from dasksdnn.engines.exchange import Grid
from dasksdnn.engines.shares import spread
from dasksdnn.events import ignore
from dasksdnn.store.checkpoints import writing
from dasksdnn.training.loop import complete
from dasksdnn.training.options import Every, Options
from dasksdnn.training.run import Run

SAMPLES = 230


@pytest.fixture(scope="module")
def net():
    return sdnn.random_sparse([12, 40, 40, 24, 5], [0.4, 0.3, 0.3, 1.0], seed=3, dtype="float64")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((SAMPLES, 12))
    return x, (x @ rng.standard_normal((12, 5))).argmax(axis=1)


def by_ranks(path, owners, replicas, x, y, *, every="1", resume=False, validation=None, memory=None, **options):
    store = sdnn.open_store(path)
    to = tuple(spread([1] * store.nparts, owners))

    def program(transport):
        run = Run(
            sdnn.open_store(path),
            Options(**options),
            Every.parse(every),
            2,
            resume,
            ignore,
            Grid(transport, owners),
            to,
        )
        return complete(run, x, y, validation, memory, 1, None)

    with writing(store):
        return run_ranks(owners * replicas, program)


def weights(path):
    return [layer.weights.toarray() for layer in sdnn.open_store(path).network]


GRIDS = [(2, 1), (3, 1), (1, 2), (2, 2)]
OPTIONS = {"epochs": 3, "batch_size": 64, "lr": 0.01, "seed": 5}


@pytest.fixture(scope="module")
def by_one(tmp_path_factory, net, data):
    """Call `by_one(partition, **options)`: what one rank gives (history, weights, generation), made once for all grids."""
    folder, found = tmp_path_factory.mktemp("one"), {}

    def run(partition, **options):
        key = repr(sorted(options.items()))
        if key not in found:
            x, y = data
            path = folder / f"{len(found)}.zarr"
            store = sdnn.save(net, path, partition=partition)
            validation = (x[:70], y[:70]) if options.pop("validation", False) else None
            history = sdnn.train(store, x, y, validation=validation, **options)
            found[key] = history, weights(path), sdnn.open_store(path).generation
        return found[key]

    return run


def same(found, right):
    for a, b in zip(found.epochs, right.epochs, strict=True):
        assert (a.epoch, a.steps, a.samples) == (b.epoch, b.steps, b.samples)
        assert a.loss == pytest.approx(b.loss, rel=1e-9)
        assert a.accuracy == pytest.approx(b.accuracy)
        if b.validation_loss is not None:
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-9)
            assert a.validation_accuracy == pytest.approx(b.validation_accuracy)


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
@pytest.mark.parametrize(
    "options",
    [
        {"validation": True, "dropout": 0.3},
        {"clip_norm": 0.5, "optimizer": "momentum"},
        {"init": "glorot", "patience": 2},
        {"evolve": "set"},
        {"evolve": "rigl", "optimizer": "sgd"},
        {"evolve": "magnitude", "target_density": 0.1},
    ],
    ids=["dropout", "clip", "init", "set", "rigl", "magnitude"],
)
def test_a_run_is_that_of_one(tmp_path, net, data, by_one, owners, replicas, options):
    x, y = data
    options = {**OPTIONS, **options}
    part = random_partition(net, 3)
    right, right_weights, generation = by_one(part, **options)
    validation = (x[:70], y[:70]) if options.pop("validation", False) else None
    sdnn.save(net, tmp_path / "many.zarr", partition=part)
    each = by_ranks(tmp_path / "many.zarr", owners, replicas, x, y, validation=validation, **options)
    assert len({tuple((e.loss, e.accuracy) for e in h.epochs) for h in each}) == 1
    same(each[0], right)
    for a, b in zip(weights(tmp_path / "many.zarr"), right_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    store = sdnn.open_store(tmp_path / "many.zarr")
    assert store.generation == generation
    assert sdnn.verify(store.path) == []


@pytest.mark.parametrize(("owners", "replicas"), GRIDS)
def test_going_on_with_the_same_ranks_gives_the_same_bits(tmp_path, net, data, owners, replicas):
    x, y = data
    for name in ("whole", "stopped"):
        sdnn.save(net, tmp_path / f"{name}.zarr", partition=random_partition(net, 3))
    whole = by_ranks(tmp_path / "whole.zarr", owners, replicas, x, y, every="2 steps", **OPTIONS)

    class StopError(Exception):
        pass

    def stopping(event):
        if event.task == "train" and event.done >= 300:
            raise StopError

    store = sdnn.open_store(tmp_path / "stopped.zarr")
    to = tuple(spread([1] * store.nparts, owners))

    def program(transport):
        listener = stopping
        run = Run(store, Options(**OPTIONS), Every.parse("2 steps"), 2, False, listener, Grid(transport, owners), to)
        return complete(run, x, y, None, None, 1, None)

    with pytest.raises(StopError):
        run_ranks(owners * replicas, program)
    found = by_ranks(tmp_path / "stopped.zarr", owners, replicas, x, y, every="2 steps", resume=True, **OPTIONS)
    same(found[0], whole[0])
    for a, b in zip(weights(tmp_path / "stopped.zarr"), weights(tmp_path / "whole.zarr"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("before", "after"), [((2, 1), (1, 1)), ((1, 1), (3, 1)), ((1, 2), (2, 1)), ((2, 2), (1, 3))])
def test_going_on_with_other_ranks_gives_the_same_to_rounding(tmp_path, net, data, by_one, before, after):
    x, y = data
    part = random_partition(net, 3)
    right, right_weights, _ = by_one(part, **OPTIONS)
    sdnn.save(net, tmp_path / "many.zarr", partition=part)
    by_ranks(tmp_path / "many.zarr", *before, x, y, **{**OPTIONS, "epochs": 1})
    found = by_ranks(tmp_path / "many.zarr", *after, x, y, resume=True, **OPTIONS)
    same(found[0], right)
    for a, b in zip(weights(tmp_path / "many.zarr"), right_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_history_counts_the_words_that_were_sent(tmp_path, net, data):
    x, y = data
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, 3))
    plan = store.comm_plan().coarsen(spread([1] * 3, 2))
    words = 2 * sum(layer.volume for layer in plan.layers[1:])
    found = by_ranks(tmp_path / "net.zarr", 2, 1, x, y, **{**OPTIONS, "epochs": 1})
    assert found[0].epochs[0].volume == words * SAMPLES
