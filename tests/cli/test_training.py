"""`dasksdnn train`: what it says and keeps, its memory as the operating system counts it, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from watching import check, watch

import dasksdnn as sdnn
from dasksdnn.engines.trainer import prepare
from dasksdnn.store.checkpoints import generations


@pytest.fixture
def task(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((400, 20), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x[:, 0] > x[:, 1]).astype(np.int64))
    sdnn.save(sdnn.random_sparse([20, 30, 2], 0.5), tmp_path / "net.zarr")
    return tmp_path


def command(folder, *more):
    return ["train", folder / "net.zarr", "--data", folder / "x.npy", "--labels", folder / "y.npy", *more]


def test_train(task, run, report):
    looked_at = ("--validation", task / "x.npy", task / "y.npy")
    found = report(*command(task, "--epochs", 20, "--lr", 0.02, "--init", "glorot", *looked_at))
    assert found["epochs"][-1]["validation_accuracy"] > 0.9
    assert found["generation"] == sdnn.open_store(task / "net.zarr").generation == 21
    assert found["plan"]["projected"] >= found["peak_rss_bytes"] * 0.5
    told = run(*command(task, "--epochs", 21, "--lr", 0.02, "--init", "glorot", *looked_at, "--resume"))
    assert "generation" in told.out
    assert len(re.findall(r"^ +\d+ +\d\.\d{4}", told.out, re.MULTILINE)) == 21
    told = run("info", task / "net.zarr").out
    assert "21 epochs, 147 steps" in told
    assert "generation  22, and 0, " in told
    kept = generations(task / "net.zarr")  # what training began with, the best, the newest two
    assert kept[0] == 0
    assert kept[-2:] == [21, 22]
    assert len(kept) <= 4


def test_chart(task, run):
    pytest.importorskip("matplotlib")
    run(*command(task, "--epochs", 2, "--chart", task / "chart.png"))
    assert (task / "chart.png").read_bytes()[:4] == b"\x89PNG"
    assert "exists" in run(*command(task, "--chart", task / "chart.png"), status=2).err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--epochs", 0), "epochs is 0"),
        (("--batch-size", -1), "batch_size is -1"),
        (("--lr", "nan"), "lr is nan"),
        (("--lr", -1), "lr is -1"),
        (("--dropout", 1), "dropout is 1"),
        (("--momentum", 1, "--optimizer", "momentum"), "momentum is 1"),
        (("--clip-norm", 0), "clip_norm is 0"),
        (("--warmup", -1), "warmup is -1"),
        (("--patience", 0), "patience is 0"),
        (("--keep", 0), "keep 0"),
        (("--checkpoint-every", "now"), "checkpoint-every 'now'"),
        (("--memory", "10MiB"), "smallest"),
        (("--threads", 0), "threads is 0"),
        (("--loss", "bce"), "y.npy: has 1 dimension"),
        (("--scratch", "/nowhere/at/all"), "scratch"),
        (("--labels", "missing.npy"), "missing.npy"),
    ],
)
def test_what_cannot_be_used_is_one_line(task, run, more, words):
    before = sdnn.open_store(task / "net.zarr").digest
    told = run(*command(task, "--epochs", 1, *more), status=2)
    assert words in told.err
    assert len([line for line in told.err.splitlines() if line.startswith("dasksdnn:")]) == 1
    assert "Traceback" not in told.err
    assert sdnn.open_store(task / "net.zarr").digest == before


def test_stopped_and_gone_on_with(task, spawn, run):
    """Ctrl-C in the middle: the last checkpoint counts, and --resume ends with the bits of a run that was not stopped."""
    how = ("--epochs", 40, "--checkpoint-every", "7 steps", "--dropout", 0.1)
    started = spawn(*command(task, *how))
    deadline = time.monotonic() + 60
    while sdnn.open_store(task / "net.zarr").generation < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGINT)
    _, said = started.communicate()
    assert started.returncode == 130, said
    assert "--resume goes on" in said
    stopped = sdnn.open_store(task / "net.zarr")
    assert 0 < stopped.training["step"] < 280
    run(*command(task, *how, "--resume"))
    sdnn.save(sdnn.random_sparse([20, 30, 2], 0.5), task / "net2.zarr")
    whole = command(task, *how)
    whole[1] = task / "net2.zarr"
    run(*whole)
    for a, b in zip(
        sdnn.open_store(task / "net.zarr").network, sdnn.open_store(task / "net2.zarr").network, strict=True
    ):
        np.testing.assert_array_equal(a.weights.data, b.weights.data)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """20 layers of 4,096 neurons: 31 MB of weights and moments, 67 MB as they are worked on; and 96 samples."""
    folder = tmp_path_factory.mktemp("deep")
    store = sdnn.save(sdnn.radixnet(4096, 20, weights="random", bias=0.0), folder / "net.zarr", window=4 << 20)
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.random((96, 4096), np.float32))
    np.save(folder / "y.npy", rng.integers(0, 4096, 96))
    prepare(store)  # compiling takes memory of its own
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="compares with what Linux counts")
def test_budgets_are_kept(spawn, deep, tmp_path):
    report = tmp_path / "report.json"

    def train(memory):
        how = ("--epochs", 1, "--batch-size", 48, "--threads", 2, "--json", report)
        started = spawn(*command(deep, *how, "--memory", memory))
        peak = watch(started)
        _, said = started.communicate()
        return started.returncode, said, peak

    code, said, _ = train("1MiB")
    assert code == 2
    least = int(re.search(r"smallest that would is (\d+) MiB", said)[1])
    for memory in (f"{least + 2}MiB", f"{least + 30}MiB", "1GiB"):
        code, said, peak = train(memory)
        assert code == 0, said
        found = json.loads(report.read_text())
        plan = {"projected_bytes": found["plan"]["projected"], "budget_bytes": found["plan"]["budget"]}
        check({"plan": plan, "peak_rss_bytes": found["peak_rss_bytes"]}, peak)
        streams = found["plan"]["settings"]["buffers"] > 0
        assert streams == (memory != "1GiB")
        assert (found["epochs"][0]["bytes_read"] > 0) == streams
    code, said, _ = train(f"{int(0.9 * least)}MiB")
    assert code == 2
