"""Programs under mpiexec, for tests: the launcher of this environment, and one folder for what all ranks write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def launcher():
    """The path of this environment's mpiexec."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'dasksdnn[mpi]'")
    found = Path(sys.executable).with_name("mpiexec")
    if not found.exists():
        pytest.skip("no mpiexec beside this Python: pip install 'dasksdnn[mpi]'")
    return str(found)


def environment(**more):
    """Ranks that outnumber the processors give way to each other."""
    paths = [str(TESTS), str(TESTS / "engines")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", **more}


def start(ranks, *arguments, program=None, **more):
    """Start ranks of a program (by default the command dasksdnn), whose output comes back in one."""
    command = [sys.executable, str(program)] if program else [str(Path(sys.executable).with_name("dasksdnn"))]
    return subprocess.Popen(
        [launcher(), "-n", str(ranks), *command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**more),
    )


def run(ranks, *arguments, program=None, seconds=120, status=0, **more):
    """Run it to its end; returns what it said."""
    process = start(ranks, *arguments, program=program, **more)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate(timeout=10)
        raise AssertionError(f"{ranks} ranks did not end in {seconds} s: {said}") from None
    if status is not None:
        assert process.returncode == status, said
    return said
