"""Commands on Dask: workers that a command starts for itself, a scheduler that is there, and what is refused."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from clusters import until
from watching import children, is_alive, partial, told

import dasksdnn as sdnn
from dasksdnn.kernels import reference


@pytest.fixture
def npy(samples, tmp_path):
    np.save(tmp_path / "x.npy", samples)
    return tmp_path / "x.npy"


def test_infer_with_workers_of_its_own(net, samples, store3, npy, report, tmp_path):
    options = ["--engine", "dask", "--workers", 2, "--memory", "600MiB", "--strategy", "samples"]
    outputs = tmp_path / "y.zarr"
    found = report("infer", store3, "--input", npy, "--output", outputs, *options)
    right = reference.infer(net, samples)
    np.testing.assert_allclose(zarr.open_array(outputs, mode="r")[:], right, rtol=1e-5, atol=1e-6)
    assert found["categories"] == (np.flatnonzero(right.any(axis=1)) + 1).tolist()
    assert found["plan"]["workers"] == 2
    assert found["plan"]["strategy"] == "samples split"
    assert found["peak_rss_bytes"] <= found["plan"]["budget_bytes"] == 600 << 20


def test_infer_and_plan_on_a_scheduler(cluster, store3, npy, report, run, tmp_path):
    options = ["--engine", "dask", "--scheduler", cluster.scheduler.address]
    found = report("infer", store3, "--input", npy, "--categories", tmp_path / "c.tsv", *options)
    by_one = report("infer", store3, "--input", npy)
    assert found["categories"] == by_one["categories"]
    assert len(cluster.scheduler_info()["workers"]) == 2
    printed = run("plan", store3, "--samples", 100, *options).out
    assert "samples split" in printed
    assert "2 of 1 thread" in printed


def test_train_with_workers_of_its_own(store3, npy, report, run, tmp_path):
    np.save(tmp_path / "y.npy", np.arange(40) % 64)
    given = ["--data", npy, "--labels", tmp_path / "y.npy", "--epochs", 2, "--batch-size", 8]
    one = Path(shutil.copytree(store3, tmp_path / "one.zarr"))
    right = report("train", one, *given)
    options = ["--engine", "dask", "--workers", 2, "--memory", "600MiB", "--strategy", "parts"]
    found = report("train", store3, *given, *options)
    assert "parts split over 2 ranks" in found["plan"]["strategy"]
    for a, b in zip(found["epochs"], right["epochs"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert 1 << 26 < found["peak_rss_bytes"] <= 600 << 20
    assert "strategy" in run("train", store3, *given, "--strategy", "parts", status=2).err


def test_what_is_refused(store, npy, run):
    for options, message in (
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler and --workers are for --engine dask"),
        (["--workers", 2], "are for --engine dask"),
        (["--strategy", "samples"], "--strategy is for --engine dask"),
        (["--engine", "dask"], "either --scheduler ADDRESS or --workers N"),
        (["--engine", "dask", "--workers", 0], "--workers is 0"),
        (["--engine", "dask", "--workers", 2, "--scheduler", "tcp://127.0.0.1:1"], "either --scheduler"),
        (["--engine", "dask", "--scheduler", "what://ever"], "is no address"),
    ):
        said = run("infer", store, "--input", npy, *options, status=2).err
        assert message in said
        assert said.count("\n") == 1


def test_no_scheduler_answers(store, npy, run, monkeypatch):
    monkeypatch.setattr("dasksdnn.cli.cluster.PATIENCE", 1)
    options = ["--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"]
    assert "no scheduler answers" in run("infer", store, "--input", npy, *options, status=2).err


def test_a_budget_that_cannot_work_is_one_line(store, npy, spawn):
    started = spawn("infer", store, "--input", npy, "--engine", "dask", "--workers", 2, "--memory", "20MiB")
    _, said = started.communicate(timeout=60)
    assert started.returncode == 2
    assert said.count("\n") == 1
    assert "the smallest that would is" in said


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A store and samples that take a while on two workers."""
    folder = tmp_path_factory.mktemp("slow")
    sdnn.save(sdnn.radixnet(1024, 40, bias=0.0), folder / "net.zarr")
    np.save(folder / "x.npy", np.ones((60_000, 1024), np.uint8))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_stops_it_stops_the_workers(number, slow, spawn, tmp_path, monkeypatch):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.mkdir()
    options = ["--engine", "dask", "--workers", 2, "--threads", 1]
    started = spawn(
        "infer", slow / "net.zarr", "--input", slow / "x.npy", "--output", out / "y.zarr", *options,
        env_extra={"TMPDIR": str(scratch)},
    )  # fmt: skip
    until(lambda: started.poll() is not None or len(partial(out)) > 2, 60)
    helpers = children(started)
    assert len(helpers) >= 2
    started.send_signal(number)
    time.sleep(0.01)
    _, said = started.communicate(timeout=60)
    until(lambda: not any(map(is_alive, helpers)), 30)
    if number != signal.SIGKILL:  # after which nobody tidies up
        assert started.returncode == 128 + number
        assert told(said) == ["dasksdnn: stopped; nothing was left half-written"]
        assert list(out.iterdir()) == []
        assert [path for path in Path(scratch).rglob("*") if path.is_file()] == []
