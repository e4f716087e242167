"""A Slurm for each module of tests."""

from __future__ import annotations

import pytest
from slurm import SlurmError, running_slurm


@pytest.fixture(scope="module")
def slurm():
    try:
        with running_slurm() as running:
            yield running
    except SlurmError as error:
        pytest.skip(str(error))
    assert running.processes() == []
    assert not running.folder.exists()
