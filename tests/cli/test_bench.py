"""`dasksdnn bench`: the table, the report, the chart, and one line for what is wrong."""

from __future__ import annotations

import json
import sys

import pytest

from dasksdnn.bench import cases, machine

SHORT = ["bench", "kernels", "--neurons", 64, "--samples", 8, "--repeats", 1, "--threads", "1"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Arrays that stand for memory far beyond the caches."""
    monkeypatch.setattr(machine, "FAR", 1 << 16)
    monkeypatch.setattr(cases, "FAR", 1 << 16)
    monkeypatch.setattr(cases, "PARTS_PANELS", 2)
    monkeypatch.setattr(cases, "PARTS_LAYERS", 6)


def test_kernels(run, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    report, chart = tmp_path / "report.json", tmp_path / "chart.svg"
    outcome = run(*SHORT, "--peers", "scipy", "--json", report, "--chart", chart)
    for name in ("bench kernels", "dasksdnn", "SciPy, tiles of 64", "x the best peer", "GB/s read"):
        assert name in outcome.out
    record = json.loads(report.read_text())
    assert record["command"] == "bench kernels"
    assert {case["kind"] for case in record["cases"]} == {"forward", "backward", "training", "width1", "parts"}
    assert record["bandwidth"]["1"]["read"] > 0
    assert "numba" in record["machine"]["versions"]
    assert record["settings"] == {"samples": 8, "repeats": 1, "threads": [1]}
    assert chart.stat().st_size


def test_missing_peers_are_named(report, monkeypatch):
    for name in ("torch", "graphblas"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"dasksdnn.bench.{name}_peer", raising=False)
    (case,) = report(*SHORT, "--only", "random")["cases"]
    names = [missing["name"] for missing in case["missing"]]
    assert names == ["PyTorch CSR", "PyTorch CSR, tiles of 64", "PyTorch dense-masked", "GraphBLAS"]


def test_graphchallenge(run, tmp_path):
    report = tmp_path / "report.json"
    outcome = run(
        "bench", "graphchallenge", "--neurons", 64, "--layers", 4, "--samples", 50, "--repeats", 1, "--threads", 2,
        "--peers", "scipy", "--json", report,
    )  # fmt: skip
    assert "64 neurons x 4 layers, 50 samples" in outcome.out
    record = json.loads(report.read_text())
    (case,) = record["cases"]
    assert [c["name"] for c in case["contenders"]] == ["dasksdnn", "SciPy"]
    assert case["multiply_adds"] == 50 * 64 * 32 * 4
    assert case["contenders"][0]["fma_share"] is None
    assert f"{case['categories']:,} categories" in outcome.out
    assert record["settings"]["threads"] == 2


def test_the_group_says_what_there_is(run):
    assert "graphchallenge" in run("bench", "--help").out


def test_every_case_has_its_line_in_the_help(run):
    lines = [line.strip() for line in run("bench", "kernels", "--help").out.splitlines()]
    assert [name for line in lines for name in cases.NAMES if line.startswith(f"{name:<11}")] == list(cases.NAMES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kernels", "--only", "radixnet,fast"], ["'fast'", "radixnet"]),
        (["kernels", "--neurons", "64,x"], ["neurons", "'64,x'"]),
        (["kernels", "--neurons", "1000"], ["1000", "power of two"]),
        (["kernels", "--threads", "0"], ["threads", "at least 1"]),
        (["kernels", "--samples", "0"], ["samples is 0"]),
        (["kernels", "--repeats", "0"], ["repeats is 0"]),
        (["kernels", "--peers", "numpy"], ["'numpy'", "scipy"]),
        (["kernels", "--chart", "chart.pdf"], ["chart.pdf", ".png"]),
        (["graphchallenge", "--neurons", "128"], ["128", "square"]),
        (["graphchallenge", "--threads", "0"], ["threads is 0"]),
        (["graphchallenge", "--repeats", "0"], ["repeats is 0"]),
        (["graphchallenge", "--samples", "100000"], ["1,797"]),
        (["graphchallenge", "--peers", "torch"], ["'torch'", "graphblas"]),
        (["graphchallenge", "--mnist", "no-such-idx3-ubyte"], ["no-such-idx3-ubyte"]),
        (["graphchallenge", "--chart", "no-such-folder/chart.png"], ["no-such-folder"]),
    ],
)
def test_bad_input(arguments, says, refused):
    refused("bench", *arguments, says=says)


def test_a_chart_is_not_overwritten(refused, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    (tmp_path / "chart.png").write_text("mine")
    refused(*SHORT, "--chart", tmp_path / "chart.png", says=["chart.png exists"])


def test_without_matplotlib(refused, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(*SHORT, "--chart", tmp_path / "chart.png", says=["pip install matplotlib"])


@pytest.mark.parametrize("only", ["", ","])
def test_no_case_at_all(run, only):
    outcome = run("bench", "kernels", "--only", only, status=2)
    assert outcome.err.startswith("dasksdnn: only: no case is named")
    assert outcome.err.count("\n") == 1
