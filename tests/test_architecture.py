"""The house stays simple: imports run one way, `import dasksdnn` is light, modules stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dasksdnn

PACKAGE = Path(dasksdnn.__file__).parent
#: Later rooms may import earlier ones, and their own; `plan` is pure, so it is apart from what reads or computes.
ROOMS = [
    "leaves",
    "network",
    "sources",
    "partition",
    "plan",
    "kernels",
    "store",
    "exports",
    "engines",
    "training",
    "fitting",
    "estimator",
    "bench",
    "diagnostics",
    "dashboard",
    "cli",
]
LEAVES = {"errors", "config", "events", "host", "compiling", "keeping", "atomic", "markup", "dasksdnn"}


def room(module):
    name = module.split(".")[1] if "." in module else "dasksdnn"
    return "leaves" if name in LEAVES else name


def imports(path):
    module = ".".join(["dasksdnn", *path.relative_to(PACKAGE).with_suffix("").parts])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dasksdnn"):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "dasksdnn" else [node.module]
            )
            yield from ((module, name) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((module, alias.name) for alias in node.names if alias.name.startswith("dasksdnn."))


def test_imports_run_one_way():
    backwards = []
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue  # the public face: it names everything, and imports on first use
        for module, imported in imports(path):
            if ROOMS.index(room(imported)) > ROOMS.index(room(module)):
                backwards.append((module, imported))
    assert backwards == []


def test_plans_are_pure():
    for path in (PACKAGE / "plan").glob("*.py"):
        text = path.read_text()
        assert not any(f"import {name}" in text for name in ("zarr", "dask.", "mpi4py", "numba")), path


def test_modules_stay_small():
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}


def test_importing_is_light():
    heavy = ("numba", "zarr", "dask", "scipy.sparse", "sklearn", "distributed", "sparse")
    code = f"import sys, dasksdnn; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names():
    assert len(dasksdnn.__all__) <= 30
    for name in dasksdnn.__all__:
        assert getattr(dasksdnn, name) is not None
    assert set(dasksdnn.__all__) <= set(dir(dasksdnn))
    with pytest.raises(AttributeError, match="nothing"):
        _ = dasksdnn.nothing


def test_functions_keep_their_names_beside_the_packages():
    code = (
        "import dasksdnn.partition.metrics, dasksdnn.plan.memory, dasksdnn as sdnn; "
        "from dasksdnn.partition import hypergraph; print(callable(sdnn.partition), callable(sdnn.plan))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
