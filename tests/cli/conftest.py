"""Running the command in this process, or as a process of its own, and small stores to run it on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.cli.main import main


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


#: Starts the command as a shell would: whoever started the tests may have ignored signals (nohup, jobs of a script).
#: "lower" takes from root the two capabilities that open what modes close: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
LAUNCH = """
import ctypes, os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
if sys.argv[1] == "lower":
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-P", "-m", "dasksdnn.cli", *sys.argv[2:]])
"""


@pytest.fixture(scope="session", autouse=True)
def _compiled(tmp_path_factory):
    """Kernels are there before commands start: on a slow machine, compiling them is told on stderr, which tests count."""
    store = sdnn.save(sdnn.radixnet(64, 2), tmp_path_factory.mktemp("compiled") / "net.zarr")
    sdnn.plan(store, 1)


@pytest.fixture
def run(capsys):
    """Call `run("info", path)`: in this process."""

    def call(*arguments, status=0):
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        assert code == status, captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def report(run, tmp_path_factory):
    """Call `report("info", path)`: what the command writes with --json."""
    path = tmp_path_factory.mktemp("json") / "report.json"

    def call(*arguments, status=0):
        run(*arguments, "--json", path, status=status)
        return json.loads(path.read_text())

    return call


def tree(folder):
    """Everything below a folder, with its content."""
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def snapshot(tmp_path):
    return lambda: tree(tmp_path)


@pytest.fixture
def refused(run, tmp_path):
    """Call `refused("infer", ..., says=["words"])`: status 2, one line on stderr, and nothing has changed on the disk."""

    def call(*arguments, says=(), printed=False):
        before = tree(tmp_path)
        outcome = run(*arguments, status=2)
        check_refusal(outcome, says)
        assert printed or outcome.out == ""
        assert tree(tmp_path) == before
        return outcome.err

    return call


def check_refusal(outcome, says=()):
    assert outcome.status == 2, outcome
    assert outcome.err.startswith("dasksdnn: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    for words in says:
        assert str(words) in outcome.err


@pytest.fixture
def spawn():
    """Call `spawn("info", path)`: starts `python -m dasksdnn.cli` as a process of its own, which is gone after the test."""
    started = []

    def call(*arguments, env_extra=(), lower=False, **options):
        command = [sys.executable, "-P", "-c", LAUNCH, "lower" if lower else "as we are", *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "PYTHONPATH": str(Path(sdnn.__file__).parents[1]), **dict(env_extra)}
        options = {"env": environment, **options}
        started.append(subprocess.Popen(command, **{**pipes, **options}))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def net():
    """Four layers of 64 neurons, in which samples survive."""
    return sdnn.radixnet(64, 4, weights="random", bias=0.0)


@pytest.fixture(scope="session")
def _stored(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    sdnn.save(net, folder / "net.zarr")
    sdnn.save(net, folder / "net3.zarr", partition=sdnn.partition(net, 3, method="block"))
    return folder


@pytest.fixture
def store(_stored, tmp_path):
    """A store of one part."""
    return Path(shutil.copytree(_stored / "net.zarr", tmp_path / "net.zarr"))


@pytest.fixture
def store3(_stored, tmp_path):
    """The same network in three parts."""
    return Path(shutil.copytree(_stored / "net3.zarr", tmp_path / "net3.zarr"))


@pytest.fixture(scope="session")
def samples():
    """Forty samples of 64 features, of which every third is empty."""
    x = np.random.default_rng(5).integers(0, 3, (40, 64)).astype(np.float32)
    x[::3] = 0
    return x


@pytest.fixture
def npy(samples, tmp_path):
    np.save(tmp_path / "x.npy", samples)
    return tmp_path / "x.npy"
