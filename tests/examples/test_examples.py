"""The examples run from top to bottom, as a newcomer would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import SHARED

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, *arguments):
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart():
    assert "digits have a non-zero output" in run("quickstart.py")


def test_plain_dask():
    assert "agree" in run("plain_dask.py")


def test_plain_backprop():
    assert "agree" in run("plain_backprop.py")


def test_partitioning(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    told = run("partitioning.py", "--out", tmp_path, "--neurons", 256, "--nparts", 4)
    assert "times fewer words" in told
    assert {path.stem for path in tmp_path.glob("*.png")} == {"spy", "sends", "volume", "load"}


def test_larger_than_memory(tmp_path):
    told = run("larger_than_memory.py", "--folder", tmp_path, "--samples", 20_000)
    assert "a worker held" in told


def test_pruning():
    assert "trained on" in run("pruning.py")


def test_graphchallenge():
    images = SHARED / "mnist" / "train-images-idx3-ubyte.gz"
    if not images.is_file():
        pytest.skip("the MNIST files are not beside this checkout (shared/mnist)")
    told = run("graphchallenge.py", "--mnist", images, "--layers", 12, "--samples", 500, "--repeat", 1)
    report = json.loads(told[told.index("{\n") :])
    assert report["samples"] == 500
    assert report["edges"] == 12 * 32 * 1024


def test_paper_tables(tmp_path):
    report = tmp_path / "report.json"
    told = run("paper_tables.py", "--neurons", 64, "--layers", 4, "--nparts", "2,4", "--batch", "1,8", "--json", report)
    for words in (
        "counted",
        "measured",
        "modelled",
        "cost more than words",
        "fewer words",
        "x as quick as in one part",
    ):
        assert words in told
    (network,) = json.loads(report.read_text())
    assert [row["nparts"] for row in network["counted"]["rows"]] == [2, 2, 4, 4]
    assert [made["batch"] for made in network["modelled"]] == [1, 8]


def test_train_mnist(tmp_path):
    images = SHARED / "mnist"
    if not images.is_dir():
        pytest.skip("the MNIST files are not beside this checkout (shared/mnist)")
    report = tmp_path / "report.json"
    told = run("train_mnist.py", "--mnist", images, "--epochs", 2, "--samples", 6000, "--layers", 4, "--json", report)
    assert "of the test images are right" in told
    found = json.loads(report.read_text())
    assert list(found) == ["5%", "1%", "RadiX-Net, 4 layers"]
    for history in found.values():
        assert history["epochs"][-1]["validation_accuracy"] > 0.8
