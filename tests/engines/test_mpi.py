"""The MPI engine under mpiexec: the same results as the local engine, exactly the plan's words, and no end without a word."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from launching import run, start
from networks import random_input, random_net, random_partition
from test_trainer import network

import dasksdnn as sdnn
from dasksdnn.engines.mpi.world import launched
from dasksdnn.engines.shares import grouped
from dasksdnn.errors import InputError

pytestmark = pytest.mark.mpi
RANKS = (1, 2, 3, 4)
PROGRAM = Path(__file__).with_name("mpi_program.py")
sys.path.insert(0, str(PROGRAM.parent))
from mpi_program import INFERENCES, TRAININGS, TWICE  # noqa: E402


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores, samples, and what the local engine makes of them."""
    folder = tmp_path_factory.mktemp("mpi")
    dying = random_net(40, layers=9, widest=50, dying=0.7)
    lively = network(
        ("tanh", "sigmoid", "leaky_relu:0.1", "tanh", "relu", "identity"), (21, 40, 33, 50, 28, 19, 12), "float32"
    )
    for name, net in {"dying": dying, "lively": lively}.items():
        store = sdnn.save(net, folder / f"{name}.zarr", partition=random_partition(net, 4, 3))
        x = random_input(1, 700, net.widths[0])
        np.save(folder / f"{name}.npy", x)
        result = sdnn.infer(store, x, out=folder / f"{name}-local.zarr")
        np.save(folder / f"{name}-categories.npy", result.categories)
    other = network(("tanh", "identity"), (21, 40, 12), "float32")
    sdnn.save(other, folder / "other.zarr", partition=random_partition(other, 4, 3))
    net = network(("relu", "tanh", "leaky_relu:0.1", "sigmoid", "identity"), (16, 24, 20, 30, 18, 5), "float32")
    sdnn.save(net, folder / "trained.zarr", partition=random_partition(net, 4, 1))
    rng = np.random.default_rng(5)
    np.save(folder / "x.npy", rng.random((130, 16), np.float32))
    np.save(folder / "y.npy", rng.random((130, 5), np.float32))
    return folder


@pytest.fixture(scope="module", params=RANKS)
def ran(request, folder):
    """How many ranks, and what they gave."""
    run(request.param, folder, program=PROGRAM)
    return request.param, pickle.loads((folder / f"kept-{request.param}.pickle").read_bytes())


def outputs(path):
    import zarr

    return zarr.open_array(path, mode="r")[:]


@pytest.mark.parametrize("name", ["dying", "lively"])
@pytest.mark.parametrize("how", [*INFERENCES, "streaming"])
def test_inference_is_that_of_the_local_engine(folder, ran, name, how):
    ranks, kept = ran
    if how != "streaming":
        np.testing.assert_array_equal(kept[name, how][0], np.load(folder / f"{name}-categories.npy"))
    elif name == "dying":
        pytest.skip("one network under the smallest budget is enough")
    if how != "categories":
        np.testing.assert_array_equal(
            bits(outputs(folder / f"{name}-{how}-{ranks}.zarr")), bits(outputs(folder / f"{name}-local.zarr"))
        )


def test_a_rank_stays_within_the_smallest_budget(ran):
    _, kept = ran
    settings, peak, budget = kept["streaming"]
    assert not settings.resident
    assert len(settings.slabs) > 1
    assert peak <= budget


def test_the_smallest_budget_that_is_named_works_in_a_new_process(tmp_path):
    """What a process has not loaded yet is not forgotten: kernels, the share's lists, panels."""
    net = sdnn.radixnet(neurons=1024, layers=24, weights="random", bias=0.0)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 2, method="random"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((600, 1024), np.float32))
    command = ["infer", store.path, "--input", tmp_path / "x.npy", "--engine", "mpi", "--json", tmp_path / "r.json"]
    run(2, *command, "--memory", "1GiB")  # compiled by now
    said = run(2, *command, "--memory", "1MiB", status=2)
    least = int(re.search(r"the smallest that would is (\d+) MiB", said)[1])
    run(2, *command, "--memory", f"{least + 2}MiB")  # processes differ a little in what they hold
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["peak_rss_bytes"] <= (least + 2) << 20
    assert report["peak_rss_bytes"] <= report["plan"]["projected_bytes"] + (2 << 20)


def test_outputs_are_shared_out_among_replicas(tmp_path):
    """Few samples with short rows would all be one chunk, of one writer."""
    net = random_net(40, layers=9, widest=50)
    store = sdnn.save(net, tmp_path / "net.zarr")
    x = random_input(2, 20_000, net.widths[0])
    np.save(tmp_path / "x.npy", x)
    right = np.empty((20_000, net.widths[-1]), np.float32)
    sdnn.infer(store, x, out=right)
    run(2, "infer", store.path, "--input", tmp_path / "x.npy", "--engine", "mpi", "--output", tmp_path / "y.zarr")
    np.testing.assert_array_equal(bits(outputs(tmp_path / "y.zarr")), bits(right))
    import zarr

    assert zarr.open_array(tmp_path / "y.zarr", mode="r").chunks[0] <= 2500


def local_training(folder, how):
    """What the local engine makes of a training, once."""
    path = folder / f"train-{how}-local.zarr"
    if not path.exists():
        import shutil

        shutil.copytree(folder / "trained.zarr", path)
        options = {k: v for k, v in TRAININGS[how].items() if k != "strategy"}
        settings = {"epochs": 2, "batch_size": 30, "loss": "mse", **options}
        history = sdnn.train(path, folder / "x.npy", folder / "y.npy", **settings)
        (folder / f"train-{how}.json").write_text(json.dumps(history.as_dict()))
    return sdnn.open_store(path), json.loads((folder / f"train-{how}.json").read_text())


@pytest.mark.parametrize("how", list(TRAININGS))
def test_training_is_that_of_the_local_engine(folder, ran, how):
    ranks, kept = ran
    right, history = local_training(folder, how)
    first = sdnn.open_store(folder / f"train-{how}-1-{ranks}.zarr")
    if how in TWICE:
        second = sdnn.open_store(folder / f"train-{how}-2-{ranks}.zarr")
        for ours, again in zip(first.network, second.network, strict=True):
            np.testing.assert_array_equal(bits(ours.weights.data), bits(again.weights.data))
            np.testing.assert_array_equal(bits(ours.bias), bits(again.bias))
    for epoch, expected in zip(kept["train", how, 1]["epochs"], history["epochs"], strict=True):
        assert epoch["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert epoch["samples"] == expected["samples"]
    for ours, theirs in zip(first.network, right.network, strict=True):
        np.testing.assert_array_equal(ours.weights.indices, theirs.weights.indices)
        np.testing.assert_allclose(ours.weights.data, theirs.weights.data, rtol=2e-4, atol=2e-6)
        np.testing.assert_allclose(ours.bias, theirs.bias, rtol=2e-4, atol=2e-6)


def planned(store, owners):
    """Words that each owner sends a sample before each layer (0-based), and that it gets: shape (layers, owners)."""
    layers = store.comm_plan().coarsen(grouped(store, owners)).layers
    sent = np.array([layer.sent().sum(axis=1) for layer in layers])
    got = np.array([layer.sent().sum(axis=0) for layer in layers])
    sent[0] = got[0] = 0  # the dataset's
    return sent, got


def owners_of(ranks):
    return next(n for n in range(min(ranks, 4), 0, -1) if ranks % n == 0)


def test_ranks_send_exactly_what_the_plan_names(folder, ran):
    """No sample of this network dies: its words are the plan's, layer by layer, forward; and back where it trains."""
    ranks, kept = ran
    if ranks == 1:
        assert kept["lively", "rows"][1] is None
        return
    store = sdnn.open_store(folder / "lively.zarr")
    alive = int(np.load(folder / "lively.npy").shape[0])
    sent, _ = planned(store, owners_of(ranks))
    for how in ("rows", "categories", "threads"):
        words = kept["lively", how][1].words
        np.testing.assert_array_equal(words[:, 0], sent.T * alive)
        assert not words[:, 1].any()
    store = sdnn.open_store(folder / "trained.zarr")
    sent, got = planned(store, owners_of(ranks))
    for how, steps in {"sgd": 2 * 130, "one at a time": 130, "dropout": 2 * 130}.items():
        traffic = kept["train", how, 1]["plan"]["traffic"]
        moved = np.array(traffic["bytes"]) // 4
        np.testing.assert_array_equal(moved[:, 0], sent.T * steps)
        np.testing.assert_array_equal(moved[:, 1], got.T * steps)


def test_sums_over_replicas_are_counted(folder, ran):
    """A step sums each gradient and gives its new weight to the others; a checkpoint gives Adam's two moments."""
    ranks, kept = ran
    history = kept["train", "samples", 1]
    if ranks == 1:
        assert "traffic" not in history["plan"]
        return
    sums = np.array(history["plan"]["traffic"]["bytes"])[:, 2] // 4
    store = sdnn.open_store(folder / "trained.zarr")
    once = (ranks - 1) * (store.edges + sum(store.widths[1:]))
    steps = sum(epoch["steps"] for epoch in history["epochs"])
    checkpoints, rest = divmod(int(sums.sum()) - 2 * steps * once, 2 * once)
    assert rest == 0
    assert 1 <= checkpoints <= 3
    assert not np.array(history["plan"]["traffic"]["bytes"])[:, :2].any()


def test_dead_samples_are_not_sent(tmp_path):
    """Half of the samples are zero: zero stays zero, and nobody sends anything of them."""
    rng = np.random.default_rng(0)
    net = sdnn.random_sparse([20, 30, 30, 30, 10], 0.3, seed=2)
    positive = sdnn.from_arrays([abs(layer.weights.toarray()) for layer in net])
    store = sdnn.save(positive, tmp_path / "net.zarr", partition=random_partition(positive, 2, 3))
    x = rng.random((400, 20), np.float32) * (np.arange(400) % 2)[:, None]
    np.save(tmp_path / "x.npy", x)
    run(2, "infer", store.path, "--input", tmp_path / "x.npy", "--engine", "mpi", "--json", tmp_path / "run.json")
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["categories"] == list(range(2, 401, 2))
    sent, _ = planned(store, 2)
    np.testing.assert_array_equal(np.array(report["traffic"]["bytes"])[:, 0] // 4, sent.T * 200)
    assert np.array(report["traffic"]["messages"])[:, 0].max() <= 4
    for name in ("pack_seconds", "wait_seconds", "compute_seconds"):
        assert np.array(report["traffic"][name]).sum() > 0


def test_a_trace_shows_every_rank_and_layer(folder, ran):
    ranks, _ = ran
    events = json.loads((folder / f"trace-{ranks}.json").read_text())["traceEvents"]
    assert {e["pid"] for e in events} == set(range(ranks))
    if ranks == 1:
        return
    timed = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in timed)
    assert {e["name"] for e in timed} == {"pack", "wait", "compute"}
    layers = len(sdnn.open_store(folder / "lively.zarr"))
    computed = {(e["pid"], e["args"]["layer"]) for e in timed if e["name"] == "compute"}
    assert computed == {(rank, layer) for rank in range(ranks) for layer in range(1, layers + 1)}


# -- what goes wrong


FAILING = """
import os, sys, threading, time
import numpy as np
from mpi4py import MPI
import dasksdnn as sdnn
from dasksdnn.errors import InputError

folder, what, rank = sys.argv[1], sys.argv[2], MPI.COMM_WORLD.rank

class Samples:
    name, samples, features, block = "failing", 4000, 21, 50

    def read(self, start, stop):
        if rank == 1 and start >= 2000:
            raise InputError("failing: sample 2000 is bad; mend it")
        return np.ones((stop - start, 21), np.float32)

    def block_bytes(self, samples):
        return samples * 84

    def close(self):
        pass

if what == "reading":
    sdnn.infer(f"{folder}/lively.zarr", Samples(), out=f"{folder}/failed.zarr", engine="mpi")
elif what == "stores":
    sdnn.infer(f"{folder}/{'other' if rank else 'lively'}.zarr", np.ones((9, 21), np.float32), out="categories", engine="mpi")
elif what == "nan":
    sdnn.train(f"{folder}/nan.zarr", f"{folder}/x.npy", f"{folder}/y.npy", loss="mse", lr=1e30, optimizer="sgd", engine="mpi")
elif what in ("train", "killed"):
    path, epochs = sys.argv[3], int(sys.argv[4])

    def watch():
        while sdnn.open_store(path).generation < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), 9)

    if what == "killed" and rank == 1:
        threading.Thread(target=watch, daemon=True).start()
    sdnn.train(path, f"{folder}/x.npy", f"{folder}/y.npy", loss="mse", epochs=epochs, batch_size=13, engine="mpi", resume=True)
"""


@pytest.fixture
def failing(tmp_path):
    path = tmp_path / "failing.py"
    path.write_text(FAILING)
    return path


def test_a_rank_that_fails_ends_all_with_its_message(folder, failing):
    began = monotonic()
    said = run(3, folder, "reading", program=failing, status=2, seconds=60)
    assert "dasksdnn: rank 1: failing: sample 2000 is bad; mend it" in said
    assert monotonic() - began < 40
    assert not (folder / "failed.zarr").exists()


def test_ranks_that_see_different_stores_are_told(folder, failing):
    said = run(2, folder, "stores", program=failing, status=None)
    assert "sees another content there than rank 0" in said


def test_a_loss_that_is_not_finite_ends_all_with_one_message(folder, failing):
    import shutil

    shutil.copytree(folder / "trained.zarr", folder / "nan.zarr")
    said = run(2, folder, "nan", program=failing, status=None)
    assert "the loss is NaN or infinite" in said
    assert sdnn.open_store(folder / "nan.zarr").generation == sdnn.open_store(folder / "trained.zarr").generation


def test_a_killed_rank_costs_the_work_since_the_last_checkpoint(folder, failing, tmp_path):
    import shutil

    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    for path in (whole, broken):
        shutil.copytree(folder / "trained.zarr", path)
    run(2, folder, "train", whole, 16, program=failing)
    process = start(2, folder, "killed", broken, 16, program=failing)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0, said
    reached = sdnn.open_store(broken)
    assert 3 <= reached.generation < sdnn.open_store(whole).generation
    run(4, folder, "train", broken, 16, program=failing)  # other ranks go on
    for ours, theirs in zip(sdnn.open_store(broken).network, sdnn.open_store(whole).network, strict=True):
        np.testing.assert_allclose(ours.weights.data, theirs.weights.data, rtol=1e-3, atol=1e-5)


def test_interrupted_ranks_end(folder, tmp_path):
    """Ctrl-C reaches all ranks; whichever is first ends the others."""
    import shutil

    path = tmp_path / "net.zarr"
    shutil.copytree(folder / "trained.zarr", path)
    process = start(
        2, "train", path, "--data", folder / "x.npy", "--labels", folder / "y.npy", "--loss", "mse", "--epochs", "100000",
        "--engine", "mpi",
    )  # fmt: skip
    end = monotonic() + 60
    while sdnn.open_store(path).generation < 3:
        assert monotonic() < end
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "--resume goes on from it" in said
    assert sdnn.open_store(path).generation >= 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "nowhere.npy"], "nowhere.npy"),
        (["--input", "x.npy", "--memory", "1MiB"], "the smallest that would is"),
        (["--input", "x.npy", "--scheduler", "tcp://127.0.0.1:1"], "--scheduler and --workers are for --engine dask"),
        (["--input", "x.npy", "--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_input_is_one_line_from_all_ranks(folder, arguments, words):
    arguments = [folder / a if a == "x.npy" else a for a in arguments]
    said = run(3, "infer", folder / "trained.zarr", "--engine", "mpi", *arguments, status=2)
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert lines[0].startswith("dasksdnn: ")
    assert words in lines[0]


def test_the_launcher_of_another_mpi_is_named(folder):
    """Ranks that the launcher knows of, and MPI does not, would all do the same work."""
    if not os.environ.get("PMI_RANK"):
        said = run(
            1, "infer", folder / "trained.zarr", "--input", folder / "x.npy", "--engine", "mpi", status=2,
            OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0",
        )  # fmt: skip
        assert "the launcher started 4 processes" in said
        assert "mpiexec" in said


def test_what_launchers_tell():
    assert launched({}) is None
    assert launched({"PMI_RANK": "1", "PMI_SIZE": "4"}) == (1, 4)
    assert launched({"SLURM_PROCID": "0"}) is None
    assert launched({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "PMI_RANK": "0", "PMI_SIZE": "1"}) == (
        2,
        3,
    )


def test_options_that_the_engine_has_no_use_for(folder):
    store, x = folder / "trained.zarr", np.zeros((3, 16), np.float32)
    with pytest.raises(InputError, match="batch is for the Dask engine"):
        sdnn.infer(store, x, engine="mpi", out="categories", batch=4)
    with pytest.raises(InputError, match="trace is for the MPI engine"):
        sdnn.infer(store, x, trace="t.json")
    with pytest.raises(InputError, match="trace is for the MPI engine"):
        sdnn.train(store, x, np.zeros((3, 5)), loss="mse", trace="t.json")
