"""The memory promise of the command line, as the operating system counts it from outside."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import zarr
from watching import check, watch

import dasksdnn as sdnn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares with what Linux counts")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A network of 20 layers of 4,096 neurons (21 MB), and 40 or 800 dense samples (13 MB), of which none dies."""
    folder = tmp_path_factory.mktemp("wide")
    sdnn.save(sdnn.radixnet(4096, 20, weights="random", bias=0.0), folder / "net.zarr")
    sdnn.plan(folder / "net.zarr", 1)  # compiles what is not in the cache yet: compiling takes memory of its own
    x = np.random.default_rng(0).random((800, 4096), np.float32)
    np.save(folder / "many.npy", x)
    np.save(folder / "few.npy", x[:40])
    return folder


@pytest.fixture
def infer(spawn, wide, tmp_path):
    """Call `infer("300MiB", "few.npy")`: what it says, its report, and the peak that the system counted."""

    def call(memory, samples):
        out, report = tmp_path / f"{samples}-{memory}.zarr", tmp_path / f"{samples}-{memory}.json"
        files = ["--input", wide / samples, "--output", out, "--json", report]
        started = spawn("infer", wide / "net.zarr", *files, "--memory", memory, "--threads", 2)
        peak = watch(started)
        _, said = started.communicate()
        found = json.loads(report.read_text()) if started.returncode == 0 else None
        return said, found, peak, out

    return call


def smallest(infer, samples):
    """What a refusal names, in MiB."""
    said, found, _, _ = infer("1MiB", samples)
    assert found is None
    return int(re.search(r"smallest that would is (\d+) MiB", said)[1])


def test_smallest_budget_works_and_less_is_refused(infer):
    least = smallest(infer, "few.npy")
    # What the process holds before the run varies by some pages.
    said, found, peak, _ = infer(f"{least + 1}MiB", "few.npy")
    assert found, said
    check(found, peak)
    assert found["plan"]["projected_bytes"] > 0.98 * found["plan"]["budget_bytes"]
    said, found, _, _ = infer(f"{int(0.9 * least)}MiB", "few.npy")
    assert found is None
    assert "smallest" in said


def test_budgets_are_kept_and_change_no_bit(infer):
    outputs = []
    for memory in ("300MiB", "1GiB"):
        said, found, peak, out = infer(memory, "many.npy")
        assert found, said
        check(found, peak)
        outputs.append(zarr.open_array(out, mode="r")[:])
    assert outputs[0].any()
    np.testing.assert_array_equal(*outputs)
