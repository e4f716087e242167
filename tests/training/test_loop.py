"""`train` as a whole: what it learns, what it keeps, what a killed run goes on with, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from networks import random_partition

import dasksdnn as sdnn
from dasksdnn.errors import InputError, MemoryBudgetError, StoreError, TrainingError
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.store.checkpoints import generations


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    x = rng.random((300, 12), np.float32)
    return x, (x[:, 0] > x[:, 5]).astype(np.int64) + 2 * (x[:, 3] > 0.5)


def network(seed=1, outputs=4, dtype="float32"):
    return sdnn.random_sparse([12, 40, 30, outputs], [0.5, 0.3, 1.0], seed=seed, dtype=dtype)


def weights(store):
    return [a for layer in store.network for a in (layer.weights.data, layer.bias)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


HOW = {"epochs": 4, "batch_size": 32, "lr": 0.01, "dropout": 0.1, "schedule": "cosine", "warmup": 5}


def test_it_learns_and_says_how(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr", partition=random_partition(network(), 3))
    seen = []
    history = sdnn.train(
        store, *task, epochs=40, lr=0.01, validation=task, listener=lambda e: seen.append((e.task, e.done, e.total))
    )
    after = sdnn.open_store(store.path)
    assert history.epochs[-1].validation_accuracy > 0.93
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert [e.epoch for e in history.epochs] == list(range(1, 41))
    assert seen[-1] == ("train", 40 * 300, 40 * 300)
    assert after.training["epoch"] == 40
    y = sdnn.infer(after, task[0]).compute()
    assert (y.argmax(axis=1) == task[1]).mean() == history.epochs[-1].validation_accuracy
    assert sdnn.verify(after.path) == []


def test_a_seed_and_any_threads_or_parts(tmp_path, task):
    """Threads change no bit; parts change the order of sums, hence the last bits."""
    found = []
    for name, nparts, threads, seed in (("a", 1, 1, 0), ("b", 1, 2, 0), ("c", 3, 2, 0), ("d", 1, 2, 1)):
        partition = random_partition(network(), nparts) if nparts > 1 else None
        store = sdnn.save(network(dtype="float64"), tmp_path / name, partition=partition)
        sdnn.train(store, *task, **HOW, threads=threads, seed=seed)
        found.append(sdnn.open_store(store.path))
    assert same(found[0], found[1])
    for ours, theirs in zip(weights(found[0]), weights(found[2]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert not same(found[0], found[3])


KILLED = """
import os, signal, sys
import numpy as np
import dasksdnn as sdnn
path, steps, kill = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.load(sys.argv[4]); y = np.load(sys.argv[5])
seen = 0
def listen(event):
    global seen
    seen += event.task == "train"
    if seen == kill:
        os.kill(os.getpid(), signal.SIGKILL)
sdnn.train(path, x, y, checkpoint_every=steps, resume=True, listener=listen, %s)
"""


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, task, optimizer):
    how = {**HOW, "optimizer": optimizer, "shuffle_buffer": 100}
    code = KILLED % ", ".join(f"{name}={value!r}" for name, value in how.items())
    np.save(tmp_path / "x.npy", task[0])
    np.save(tmp_path / "y.npy", task[1])
    right = sdnn.save(network(), tmp_path / "right.zarr")
    sdnn.train(right, *task, **how)
    store = sdnn.save(network(), tmp_path / "net.zarr", partition=None)
    ends = []
    for kill in (1, 9, 4, -1):  # of steps of this process; checkpoints are of every third
        arguments = [str(store.path), "3 steps", str(kill), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        ends.append(done.returncode)
        assert sdnn.verify(store.path) == []
    assert ends == [-9] * 3 + [0], done.stderr
    assert same(sdnn.open_store(right.path), sdnn.open_store(store.path))


def test_only_the_stated_checkpoints_are_kept(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    sdnn.train(store, *task, **HOW, checkpoint_every="5 steps", keep=3)
    kept = generations(store.path)
    best = sdnn.open_store(store.path).training["best"]["generation"]
    newest = sdnn.open_store(store.path).generation
    assert set(kept) == {0, best, newest, newest - 1, newest - 2}
    assert same(sdnn.open_store(store.path, 0), sdnn.open_store(sdnn.save(network(), tmp_path / "b.zarr").path))


def test_patience_ends_training_and_returns_to_the_best(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    noise = np.random.default_rng(1).integers(0, 4, 300)
    history = sdnn.train(store, *task, epochs=60, lr=0.05, patience=3, validation=(task[0], noise))
    after = sdnn.open_store(store.path)
    losses = [e.validation_loss for e in history.epochs]
    assert len(losses) < 60
    assert int(np.argmin(losses)) == len(losses) - 4
    outputs = sdnn.infer(after, task[0]).compute().astype(float)
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    loss = (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(300), noise]).mean()
    np.testing.assert_allclose(loss, min(losses), rtol=1e-5)
    again = sdnn.train(store.path, *task, epochs=60, lr=0.05, patience=3, validation=(task[0], noise), resume=True)
    assert again.epochs == history.epochs


def test_going_on_needs_the_same_options(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    sdnn.train(store, *task, epochs=1)
    with pytest.raises(InputError, match=r"trained with lr 0\.001, not 0\.002"):
        sdnn.train(store.path, *task, epochs=2, lr=0.002, resume=True)
    more = sdnn.train(store.path, *task, epochs=3, resume=True)
    assert len(more.epochs) == 3
    with pytest.raises(InputError, match="300 samples"):
        sdnn.train(store.path, task[0][:200], task[1][:200], epochs=4, resume=True)


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_intact(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    sdnn.train(store, *task, epochs=1, optimizer="sgd", lr=0.01)
    before = sdnn.open_store(store.path)
    with pytest.raises(
        TrainingError, match=r"epoch 1, batch \d+ \(step \d+\).*layer \d.*generation 2 .*before training, is intact"
    ):
        sdnn.train(store.path, *task, epochs=5, optimizer="sgd", lr=1e30)
    assert same(sdnn.open_store(store.path), before)


def test_wrong_arguments(tmp_path, task):
    store, (x, y) = sdnn.save(network(), tmp_path / "net.zarr"), task
    for error, match, arguments, how in (
        (InputError, "label of sample 0 .* is 9", (x, np.full(300, 9)), {}),
        (InputError, "299 labels for 300", (x, y[:-1]), {}),
        (InputError, "sample 7 ", (np.where(np.arange(300)[:, None] == 7, np.nan, x), y), {}),
        (InputError, "transposed|features", (x[:, :5], y), {}),
        (InputError, "no samples", (x[:0], y[:0]), {}),
        (InputError, "engine 'spark'", task, {"engine": "spark"}),
        (MemoryBudgetError, "the smallest that would is", task, {"memory": "20MiB"}),
    ):
        with pytest.raises(error, match=match):
            sdnn.train(store.path, *arguments, **how)
    assert sdnn.open_store(store.path).digest == store.digest


def test_a_loss_that_does_not_go_with_the_network(tmp_path, task):
    weights = scipy.sparse.csr_array(np.ones((4, 12), np.float32))
    net = Network.from_layers([Layer(weights, np.zeros(4), Activation("relu"))])
    with pytest.raises(InputError, match="last layer's activation is relu"):
        sdnn.train(sdnn.save(net, tmp_path / "net.zarr"), task[0], np.eye(4)[task[1]], loss="bce")


def test_one_training_at_a_time(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")

    def again(event):
        if event.task == "train":
            sdnn.train(store.path, *task, epochs=1)

    with pytest.raises(StoreError, match="another process is training"):
        sdnn.train(store, *task, epochs=1, listener=again)


def test_stopped_by_hand(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")

    def stop(event):
        if event.task == "train" and event.done > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        sdnn.train(store, *task, epochs=1, checkpoint_every="1 steps", listener=stop)
    assert "of step 2; --resume goes on" in caught.value.__notes__[0]


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_values_as_targets(tmp_path, task, loss):
    x = task[0]
    t = np.stack([x[:, 0] > x[:, 1], x[:, 2] > 0.5], axis=1).astype(np.float32)
    net = sdnn.random_sparse([12, 60, 2], [0.5, 1.0], output_activation="sigmoid" if loss == "bce" else "identity")
    store = sdnn.save(net, tmp_path / "net.zarr")
    history = sdnn.train(store, x, t, loss=loss, epochs=30, lr=0.01)
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert (history.epochs[-1].accuracy is None) == (loss == "mse")


@pytest.mark.parametrize(
    "evolve",
    [{"evolve": "set"}, {"evolve": "rigl", "new_communication": False}, {"evolve": "magnitude", "target_density": 0.2}],
)
def test_the_pattern_changes_between_epochs_and_a_killed_run_goes_on(tmp_path, task, evolve):
    how = {"epochs": 12, "batch_size": 64, "lr": 0.02, "evolve_every": 2, **evolve}
    net, partition = network(), random_partition(network(), 3)
    right = sdnn.save(net, tmp_path / "right.zarr", partition=partition)
    history = sdnn.train(right, *task, **how)
    assert [change["epoch"] for change in history.changes] == [2, 4, 6, 8]
    edges = [e.edges for e in history.epochs]
    assert edges[0] == net.edges
    after = sdnn.open_store(right.path)
    assert edges[-1] == after.edges == sum(layer.edges for layer in after.network)
    assert (edges[-1] < edges[0]) == ("magnitude" in evolve.values())
    if "magnitude" in evolve.values():
        assert [round(layer.edges / np.prod(layer.weights.shape), 1) for layer in after.network] == [0.2, 0.2, 1.0]
    assert sdnn.verify(right.path) == []
    if evolve.get("new_communication") is False:
        assert after.comm_plan().volume <= right.comm_plan().volume
    code = KILLED % ", ".join(f"{name}={value!r}" for name, value in how.items())
    np.save(tmp_path / "x.npy", task[0])
    np.save(tmp_path / "y.npy", task[1])
    store = sdnn.save(net, tmp_path / "net.zarr", partition=partition)
    for kill in (20, -1):
        arguments = [str(store.path), "7 steps", str(kill), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == (0 if kill < 0 else -9), done.stderr
    assert same(sdnn.open_store(right.path), sdnn.open_store(store.path))


@pytest.fixture
def again(tmp_path, task):
    """A store that was trained for three epochs, and a function that makes copies of it."""
    store = sdnn.save(network(), tmp_path / "first.zarr")
    sdnn.train(store, *task, epochs=3)

    def copy(name):
        return sdnn.open_store(shutil.copytree(store.path, tmp_path / name))

    return copy


def plain(store, path):
    """The same weights in a store that was never trained."""
    return sdnn.save(store.network, path)


def test_a_store_that_was_trained_before_is_trained_like_any_other(tmp_path, task, again):
    how = {"epochs": 4, "evolve": "set", "evolve_every": 3, "checkpoint_every": 10}
    before, clean = again("a.zarr"), plain(again("b.zarr"), tmp_path / "c.zarr")
    assert sdnn.train(before, *task, **how).epochs[-1].loss == sdnn.train(clean, *task, **how).epochs[-1].loss


def test_a_run_stopped_before_its_first_checkpoint_is_not_taken_for_the_one_before(tmp_path, task, again):
    store, clean = again("a.zarr"), plain(again("b.zarr"), tmp_path / "c.zarr")

    def stop(event):
        if event.task == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sdnn.train(store, *task, epochs=3, listener=stop)
    sdnn.train(store.path, *task, epochs=3, resume=True)
    sdnn.train(clean, *task, epochs=3)
    assert same(sdnn.open_store(store.path), sdnn.open_store(clean.path))


def test_drawing_anew_loses_nothing(task, again):
    store = again("a.zarr")
    with pytest.raises(InputError, match="labels"):
        sdnn.train(store, task[0], task[1][:-1], init="he")
    assert sdnn.open_store(store.path).digest == store.digest
    sdnn.train(store, *task, epochs=5, init="he", keep=1)
    kept = generations(store.path)
    assert store.generation in kept
    assert same(sdnn.open_store(store.path, store.generation), store)
    fresh = sdnn.initialise(store.network, "he", 0)
    with pytest.raises(KeyboardInterrupt):
        sdnn.train(again("b.zarr"), *task, init="he", listener=interrupt)
    path = store.path.with_name("b.zarr")
    for drawn, layer in zip(sdnn.open_store(path).network, fresh, strict=True):
        np.testing.assert_array_equal(drawn.weights.data, layer.weights.data)
    history = sdnn.train(path, *task, epochs=5, init="he", resume=True)
    assert history.epochs[-1].loss == sdnn.open_store(store.path).training["history"][-1]["loss"]


def interrupt(event):
    if event.task == "train":
        raise KeyboardInterrupt


def test_training_that_returned_to_the_best_is_not_gone_on_with(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    how = {"lr": 0.05, "patience": 4, "validation": (task[0], np.random.default_rng(1).integers(0, 4, 300))}
    history = sdnn.train(store, *task, epochs=12, **how)
    assert history.best != history.epochs[-1]
    with pytest.raises(InputError, match="returned to the best epoch"):
        sdnn.train(store.path, *task, epochs=30, resume=True, **how)
    with pytest.raises(InputError, match="trained with 300 validation, not 0"):
        sdnn.train(store.path, *task, epochs=12, resume=True, lr=0.05, patience=4)


def test_a_checkpoint_is_gone_on_with_by_any_number_of_threads(tmp_path, task):
    ends = []
    for threads in (1, 2):
        store = sdnn.save(network(), tmp_path / f"{threads}.zarr")
        with pytest.raises(KeyboardInterrupt):
            sdnn.train(store, *task, epochs=2, checkpoint_every="1 steps", threads=2, listener=stop_at(200))
        history = sdnn.train(store.path, *task, epochs=2, checkpoint_every="1 steps", threads=threads, resume=True)
        assert history.plan["settings"]["threads"] == threads
        ends.append(sdnn.open_store(store.path))
    assert same(*ends)


def stop_at(samples):
    def stop(event):
        if event.task == "train" and event.done > samples:
            raise KeyboardInterrupt

    return stop


def test_validation_that_is_not_finite_is_named(tmp_path, task):
    store = sdnn.save(network(), tmp_path / "net.zarr")
    looked_at = (np.tile(task[0][:10], (600, 1)), np.tile(task[1][:10], 600))
    with pytest.raises(
        TrainingError, match=r"epoch 1, validation: .*layer \d's outputs; generation 0 .*from before training"
    ):
        sdnn.train(store, task[0][:10], task[1][:10], optimizer="sgd", lr=1e37, batch_size=6000, validation=looked_at)


def test_layers_without_weights_are_left_alone_by_pruning(tmp_path, task):
    layers = list(network())
    empty = scipy.sparse.csr_array((30, 40), dtype=np.float32)
    net = Network.from_layers([layers[0], Layer(empty, np.ones(30), Activation("relu")), layers[2]])
    store = sdnn.save(net, tmp_path / "net.zarr")
    sdnn.train(store, *task, epochs=4, evolve="magnitude", target_density=0.3)
    assert [layer.edges for layer in sdnn.open_store(store.path).network][1:] == [0, 120]
