"""`dasksdnn partition --compare` and `--predict`: tables, reports, a picture, and one line for what is wrong."""

from __future__ import annotations

import pytest

import dasksdnn as sdnn
from dasksdnn.partition.steptime import Machine, step_time

RATE = ["--rate", "1e9"]


def test_compare(net, store, run, report):
    options = ["--compare", "--nparts", "2,4", "--methods", "random,block", *RATE, "--latency", 0, "--batch", 8]
    found = report("partition", store, *options)
    assert (found["command"], found["rate_measured"]) == ("partition", False)
    rows = found["compare"]["rows"]
    assert [(row["nparts"], row["method"]) for row in rows] == [(n, m) for n in (2, 4) for m in ("random", "block")]
    for row in rows:
        made = sdnn.partition(net, row["nparts"], method=row["method"])
        assert (row["volume"], row["messages"]) == (made.volume, made.messages)
        assert row["step_seconds"] == step_time(made.metrics, Machine(1e9, 0.0), 8).as_dict()
    told = run("partition", store, *options).out
    for words in ("partition --compare", "64 neurons", "given", "0 us a message", "volume", "max messages", "step ms"):
        assert words in told


def test_every_method_by_default(store, report, little_effort):
    rows = report("partition", store, "--compare", "--nparts", 2, *RATE)["compare"]["rows"]
    assert [row["method"] for row in rows] == ["random", "block", "metis", "mtkahypar", "hypergraph"]


def test_a_missing_library_is_a_row(store, run, tmp_path_factory, monkeypatch):
    shadow = tmp_path_factory.mktemp("shadow")
    (shadow / "pymetis.py").write_text("raise ModuleNotFoundError(name='pymetis')\n")
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    told = run("partition", store, "--compare", "--nparts", 2, "--methods", "random,metis", *RATE).out
    assert "failed: layer 1: metis is not installed: pip install pymetis" in told


def test_predict(store, run, report, little_effort):
    options = ["--predict", "--nparts", "2,4", *RATE, "--latency", "1e-3"]
    found = report("partition", store, *options)
    assert [p["batch"] for p in found["predict"]] == [1, 64]
    for told in found["predict"]:
        assert [(s["method"], s["nparts"]) for s in told["steps"]] == [
            (method, n) for method in ("random", "hypergraph") for n in (2, 4)
        ]
        assert told["machine"] == {"rate": 1e9, "latency": 1e-3, "bandwidth": 12.5e9}
        assert told["crossover"]["random"]["latency_bound_from"] == 2
    told = run("partition", store, *options).out
    for words in ("on 1 sample,", "on 64 samples,", "speedup", "one part alone is quickest", "cost more than words"):
        assert words in told


def test_a_rate_is_measured(store, run, report):
    options = ["--predict", "--nparts", 2, "--methods", "block", "--batch", "1,3"]
    found = report("partition", store, *options)
    assert found["rate_measured"] is True
    assert all(told["machine"]["rate"] > 1e6 for told in found["predict"])
    assert run("partition", store, *options).out.count("measured on a core of this machine") == 2


def test_chart(store, run, refused, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    options = ["partition", store, "--compare", "--nparts", "2,4", "--methods", "random,block", *RATE]
    chart = tmp_path / "chart.svg"
    run(*options, "--chart", chart)
    assert "in 4 parts" in chart.read_text()
    refused(*options, "--chart", chart, says=["chart.svg exists", "--overwrite"])
    run(*options, "--chart", chart, "--overwrite")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--compare", "--predict", "--nparts", 2], ["--compare and --predict"]),
        (["--compare", "--nparts", "2,x"], ["nparts", "'2,x'"]),
        (["--compare", "--nparts", "2,0"], ["nparts 0", "at least 1"]),
        (["--compare", "--nparts", "2,65"], ["nparts 65", "64 rows"]),
        (["--compare"], ["--nparts"]),
        (["--compare", "--nparts", 2, "--methods", "magic"], ["magic", "hypergraph"]),
        (["--compare", "--nparts", 2, "--methods", ","], ["nothing to compare"]),
        (["--compare", "--nparts", 2, "--batch", "1,2"], ["one batch size", "--predict"]),
        (["--compare", "--nparts", 2, "--out", "new.zarr"], ["--out", "no store"]),
        (["--compare", "--nparts", 2, "--method", "block", "--resume"], ["--methods", "leave out --method, --resume"]),
        (["--compare", "--nparts", 2, "--owner", "mine.npy"], ["--owner gives", "--compare"]),
        (["--compare", "--nparts", 2, "--chart", "chart.pdf"], ["chart.pdf", ".png"]),
        (["--compare", "--nparts", 2, "--epsilon", -1], ["epsilon"]),
        (["--predict", "--nparts", 2, "--chart", "chart.png"], ["chart.png", "--compare"]),
        (["--predict", "--nparts", 2, "--batch", 0], ["batch 0"]),
        (["--predict", "--nparts", 2, "--rate", 0], ["rate 0"]),
        (["--predict", "--nparts", 2, "--latency", -1], ["latency -1"]),
        (["--predict", "--nparts", 2, "--bandwidth", "nan"], ["bandwidth nan"]),
        (["--nparts", "2,3", "--out", "new.zarr"], ["nparts 2,3", "--compare"]),
        (["--nparts", 2], ["--out"]),
        (["--nparts", 2, "--out", "new.zarr", "--rate", 1], ["--rate", "--predict"]),
        (["--nparts", 2, "--out", "new.zarr", "--chart", "chart.png"], ["--chart", "--compare"]),
    ],
)
def test_wrong_input(options, says, store, refused):
    rate = RATE if "--compare" in options else []
    refused("partition", store, *options, *rate, says=says)
