"""The examples run from top to bottom, as a newcomer would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED

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


def test_graphchallenge():
    images = SHARED / "mnist" / "train-images-idx3-ubyte.gz"
    if not images.is_file():
        pytest.skip("the MNIST files are not beside this checkout (shared/mnist)")
    told = run("graphchallenge.py", "--mnist", images, "--layers", 12, "--samples", 500, "--repeat", 1)
    report = json.loads(told[told.index("{\n") :])
    assert report["samples"] == 500
    assert report["edges"] == 12 * 32 * 1024
