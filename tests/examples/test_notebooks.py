"""The notebooks run from top to bottom, as a newcomer would run them; each ends with a result that it checks itself."""

from __future__ import annotations

import json

import pytest
from notebooks import EXAMPLES, run_notebook
from places import SHARED

SAYS = {
    "quickstart.ipynb": "of the digits that it has not seen are right",
    "partitioning.ipynb": "times fewer words than random rows send",
    "larger_than_memory.ipynb": "a worker held",
    "pruning.ipynb": "weights:",
}


@pytest.mark.parametrize("name", SAYS)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    printed = run_notebook(name, tmp_path, monkeypatch)
    assert SAYS[name] in "".join(printed[-2:])
    assert not list(tmp_path.glob("tmp*"))  # it has put away what it made


def test_pruning_learns_mnist(tmp_path, monkeypatch):
    if not (SHARED / "mnist").is_dir():
        pytest.skip("the MNIST files are not beside this checkout (shared/mnist)")
    assert "right" in run_notebook("pruning.ipynb", tmp_path, monkeypatch, MNIST=SHARED / "mnist")[-1]


def test_notebooks_are_stored_without_outputs():
    """What they show is made by whoever runs them: stored pictures would be large, and out of date."""
    found = sorted(EXAMPLES.glob("*.ipynb"))
    assert {path.name for path in found} == {*SAYS, "slurm_cluster.ipynb"}
    for path in found:
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
