"""MPI ranks that srun starts, on both virtual nodes of a real Slurm of one machine: at the prompt, and in a batch job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import until
from launching import launcher
from mpi_example import EXAMPLES, Example
from slurm import NODES

import dasksdnn as sdnn
from dasksdnn.store.locating import generations

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]


@pytest.fixture
def example(tmp_path):
    launcher()  # skips where there is no MPI
    return Example(tmp_path)


@pytest.fixture
def started(slurm):
    """What one of Slurm's commands prints, started by a user whose Python is the one of here."""

    def run(*command, status=0):
        # Ranks share two processors with whatever else runs here: they give way to each other.
        env = {"PYTHONWARNINGS": "error", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", **slurm.env}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        command = [shutil.which(command[0], path=env["PATH"]), *map(str, command[1:])]
        done = subprocess.run(command, env=env, cwd=EXAMPLES, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout + done.stderr

    yield run
    until(lambda: slurm.jobs() == {})


def test_srun_starts_one_world_on_both_nodes(started, example):
    both = ["-n", "2", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"]
    example.check(started("srun", "--mpi=pmi2", *both, "python", "mpi.py", *example.arguments), NODES)


@pytest.fixture
def submitted(slurm, started, example, tmp_path):
    """Submit the batch script; returns what tells the job's state, and the file of what it says."""

    def submit(*more):
        told = tmp_path / "told"
        # The nodes here are smaller than those that it asks for.
        smaller = ["--cpus-per-task=2", "--mem=4G", f"--output={told}"]
        job = started("sbatch", "--parsable", *smaller, "mpi.sbatch", *example.arguments, *more).strip()
        return lambda: slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip(), told

    return submit


def ended(state):
    return state() not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}


def test_the_batch_script(submitted, example):
    state, told = submitted()
    until(lambda: ended(state), seconds=120)
    assert state() == "COMPLETED", told.read_text()
    example.check(told.read_text(), NODES)


def test_a_killed_rank_ends_the_job(slurm, submitted, example):
    state, told = submitted("--epochs=100000")
    until(lambda: len(generations(example.store.path)) > 1 or ended(state), seconds=120)
    assert state() == "RUNNING", told.read_text()
    (rank,) = (pid for pid in slurm.processes("n2") if b"mpi.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(rank, signal.SIGKILL)
    until(lambda: ended(state), seconds=30)
    assert state() == "FAILED", told.read_text()
    assert sdnn.open_store(example.store.path).generation > example.store.generation


def test_ranks_that_know_nothing_of_each_other_are_refused(started, example):
    said = started("srun", "--mpi=none", "-n", "2", "--nodes=2", "python", "mpi.py", *example.arguments, status=1)
    assert "the launcher started 2 processes, but the MPI of mpi4py" in said
    assert not example.out.exists()
