"""examples/mpi.py by the mpiexec of this environment."""

from __future__ import annotations

import pytest
from launching import run
from mpi_example import EXAMPLES, Example

pytestmark = pytest.mark.mpi


def test_two_ranks_give_what_one_process_gives(tmp_path):
    example = Example(tmp_path)
    example.check(run(2, *example.arguments, program=EXAMPLES / "mpi.py", PYTHONWARNINGS="error"))
