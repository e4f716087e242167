"""Running a notebook of examples/ from top to bottom, in a kernel of its own that leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_notebook(name, folder, monkeypatch, **environment):
    """What its cells printed, one string a cell; a cell that fails fails the test with its traceback."""
    reason = "is not installed: pip install 'dasksdnn[notebook]'"
    nbclient = pytest.importorskip("nbclient", reason=f"nbclient {reason}")
    pytest.importorskip("ipykernel", reason=f"ipykernel {reason}")
    pytest.importorskip("matplotlib", reason=f"matplotlib {reason}")
    import nbformat

    for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(folder))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}})
    client.execute(env=dict(os.environ))
    return [
        "".join(out.get("text", "") for out in cell.outputs if out.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
