"""Training with a quarter of the memory that weights and moments take, as the operating system counts it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from watching import check, watch

import dasksdnn as sdnn
from dasksdnn.engines.trainer import prepare

MIB = 1 << 20
BUDGET = 1080 * MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="compares with what Linux counts")
def test_a_budget_of_a_quarter_of_the_state(spawn, tmp_path):
    """RadiX-Net, 16,384 x 700: 367 M weights, 4.5 GB with Adam's moments; two steps of 64 samples."""
    store = sdnn.save(sdnn.radixnet(16384, 700), tmp_path / "net.zarr")
    prepare(store)  # compiling takes memory of its own
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", (rng.random((128, 16384)) < 0.2).astype(np.uint8))
    np.save(tmp_path / "y.npy", rng.integers(0, 16384, 128))
    data = ["--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--scratch", tmp_path]
    how = [
        "--epochs",
        1,
        "--lr",
        1e-4,
        "--threads",
        2,
        "--memory",
        f"{BUDGET // MIB}MiB",
        "--json",
        tmp_path / "r.json",
    ]
    started = spawn("train", store.path, *data, *how)
    peak = watch(started)
    _, said = started.communicate()
    assert started.returncode == 0, said
    found = json.loads((tmp_path / "r.json").read_text())
    plan = found["plan"]
    assert plan["state"] >= 4 * BUDGET
    check(
        {
            "plan": {"projected_bytes": plan["projected"], "budget_bytes": plan["budget"]},
            "peak_rss_bytes": found["peak_rss_bytes"],
        },
        peak,
    )
    assert found["epochs"][0]["bytes_read"] > 2 * plan["state"]
    assert sdnn.open_store(store.path).training["step"] == 2
