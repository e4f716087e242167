"""`dasksdnn bench mpi`: two ranks measure every kind, and one says how to start them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dasksdnn.bench.exchanges import gaps
from dasksdnn.kernels.routes import COMPUTING, WAITING

pytestmark = pytest.mark.mpi


def numbers(record):
    if isinstance(record, dict):
        record = list(record.values())
    if isinstance(record, list):
        return [n for each in record for n in numbers(each)]
    return [record] if isinstance(record, int | float) else []


def test_two_ranks_measure_every_kind(tmp_path):
    pytest.importorskip("mpi4py")
    launcher = Path(sys.executable).with_name("mpiexec")
    if not launcher.exists():
        pytest.skip("there is no mpiexec beside Python")
    report = tmp_path / "report.json"
    sizes = ["--neurons", "64", "--layers", "4", "--samples", "8", "--repeats", "1", "--memory", "2GiB"]
    command = [
        launcher,
        "-n",
        "2",
        sys.executable,
        "-P",
        "-m",
        "dasksdnn.cli",
        "bench",
        "mpi",
        *sizes,
        "--json",
        report,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bench mpi") == 1  # rank 0 alone prints
    record = json.loads(report.read_text())
    assert record["ranks"] == 2
    assert list(record["cases"]) == ["inference", "training", "single", "partition"]
    assert all(record["cases"].values())
    assert all(math.isfinite(n) for n in numbers(record))
    for kind in record["cases"].values():
        assert all(title in done.stdout for title in kind)
    (single,) = record["cases"]["single"].values()
    of = {(row["pass"].split(",")[0], row["by"], row["of"]) for row in single}
    kinds = {("compiled", "a layer"), ("compiled", "a pass's mean"), ("Python", "a pass's mean")}
    assert of == {(what, *kind) for what in ("inference", "training") for kind in kinds}
    for case in record["cases"]["partition"].values():
        alone, random, hypergraph = case["rows"]
        assert alone["words"] == alone["messages"] == 0
        # Layers 2 to 4, both ways, both ranks.
        assert random["messages"] == 3 * 2 * 2
        assert 0 < hypergraph["words"] <= random["words"]


def test_one_rank_is_told_how_to_start_more(run):
    pytest.importorskip("mpi4py")
    outcome = run("bench", "mpi", "--only", "single", status=2)
    assert "mpiexec -n 2 dasksdnn bench mpi" in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_unknown_kind_is_refused(run):
    assert (
        "only: 'fast' is not known; use some of inference,training"
        in run("bench", "dask", "--only", "fast", status=2).err
    )


def test_gaps_are_between_computing():
    def event(layer, back, kind, began, ended):
        return (layer, back, 0, kind, began, ended)

    forward = [event(0, 0, COMPUTING, 0, 10), event(1, 0, WAITING, 10, 12), event(1, 0, COMPUTING, 13, 20)]
    forward += [event(2, 0, COMPUTING, 25, 30)]
    back = [event(2, 1, COMPUTING, 40, 50), event(2, 1, COMPUTING, 51, 60), event(1, 1, COMPUTING, 64, 70)]
    back += [event(1, 1, COMPUTING, 72, 80), event(0, 1, COMPUTING, 88, 90)]
    passes = np.array([*forward, *back] * 2, np.int64)
    assert gaps(passes, (1, 2), back=False).tolist() == [3, 5] * 2
    assert gaps(passes, (2,), back=False).tolist() == [5] * 2
    assert gaps(passes, (1, 2), back=True).tolist() == [5, 10] * 2
