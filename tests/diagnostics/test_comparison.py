"""Partitions side by side, and what their steps would take: tables, data, and pictures."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from networks import random_net
from partition_cases import PUBLISHED, published

import dasksdnn as sdnn
from dasksdnn.diagnostics.comparison import compare
from dasksdnn.diagnostics.prediction import predict
from dasksdnn.errors import InputError, OutputExistsError
from dasksdnn.partition.steptime import Machine, step_time

MACHINE = Machine(1e9)


@pytest.fixture(scope="module")
def net():
    return random_net(7, layers=3, widest=40)


@pytest.fixture(scope="module")
def found(net):
    return compare(net, (2, 3), ("random", "block", "metis"), machine=MACHINE, batch=4)


def test_rows_are_what_partition_counts(net, found):
    assert [(row.nparts, row.method) for row in found.rows] == [
        (n, method) for n in (2, 3) for method in ("random", "block", "metis")
    ]
    for row in found.rows:
        made = sdnn.partition(net, row.nparts, method=row.method)
        assert row.metrics.as_dict() == made.metrics.as_dict()
        assert row.step == step_time(made.metrics, MACHINE, 4)
        assert row.best_imbalance == made.metrics.best_imbalance_per_layer.max()


def test_the_table_is_aligned(found):
    head, header, *lines = repr(found).splitlines()
    assert "random-7" in head
    assert len(lines) == 6
    end = header.index("volume") + len("volume")
    assert [int(line[:end].split()[-1].replace(",", "")) for line in lines] == [r.metrics.volume for r in found.rows]


def test_as_dict_is_json(found):
    record = json.loads(json.dumps(found.as_dict()))
    assert record["machine"] == {"rate": 1e9, "latency": 1.5e-6, "bandwidth": 12.5e9}
    assert (record["batch"], record["network"]) == (4, "random-7")
    row = record["rows"][0]
    assert row["volume_per_layer"] == found.rows[0].metrics.volume_per_layer.tolist()
    assert row["step_seconds"]["total"] == found.rows[0].step.total
    assert "send" not in row


def test_a_method_that_fails_is_a_row(net, tmp_path, monkeypatch):
    (tmp_path / "pymetis.py").write_text("raise ModuleNotFoundError(name='pymetis')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = compare(net, (2, 3), ("random", "metis"))
    assert [row.metrics is None for row in found.rows] == [False, True, False, True]
    assert repr(found).count("pip install pymetis") == 2
    assert "pip install pymetis" in found.as_dict()["rows"][1]["failed"]
    assert set(found.counted()) == {"random"}
    told = predict(found, MACHINE, 1)
    assert "pip install pymetis" in repr(told)
    assert [each["nparts"] for each in told.as_dict()["failed"]] == [2, 3]


def test_too_many_parts_are_refused_before_any_work(net):
    told = []
    with pytest.raises(InputError, match="nparts 1000"):
        compare(net, (2, 1000), ("random",), listener=told.append)
    assert told == []


def test_progress_is_of_everything(net):
    told = []
    compare(net, (1, 2), ("random", "block"), listener=told.append)
    assert [event.done for event in told] == list(range(1, 4 * 3 + 1))
    assert {event.total for event in told} == {12}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"nparts": ()}, "nothing to compare"),
        ({"methods": ()}, "nothing to compare"),
        ({"methods": ("magic",)}, "magic"),
        ({"batch": 0}, "batch 0"),
        ({"epsilon": -1}, "epsilon"),
    ],
)
def test_wrong_input(arguments, says, net):
    with pytest.raises(InputError, match=says):
        compare(net, **{"nparts": (2,), "methods": ("random",), **arguments})


def test_predictions(net, found):
    told = predict(found, MACHINE, 4)
    assert told.steps["block"] == {row.nparts: row.step for row in found.rows if row.method == "block"}
    assert told.alone.total == 3 * net.edges * 4 / 1e9
    lines = repr(told).splitlines()
    assert len(lines) == 2 + 6 + 3
    record = json.loads(json.dumps(told.as_dict()))
    assert len(record["steps"]) == 6
    assert record["steps"][0]["speedup"] == pytest.approx(told.alone.total / told.steps["random"][2].total)
    assert set(record["crossover"]) == {"random", "block", "metis"}


def test_crossovers_in_words(found):
    # Messages that cost nothing, and a quick network: parts help.
    (words, *_) = predict(found, Machine(1e3, 0.0, 1e12), 4).crossovers().values()
    assert words.startswith("messages do not cost more than words; more parts help up to 3, the most")
    (words, *_) = predict(found, Machine(1e12, 1.0, 1e12), 4).crossovers().values()
    assert words == "messages cost more than words at any number of parts; one part alone is quickest"


def test_the_published_network():
    if not PUBLISHED.exists():
        pytest.skip("the published Graph Challenge files are not beside this checkout (shared/graphchallenge)")
    found = compare(published(3), (4,), ("random", "metis"), machine=MACHINE)
    random, metis = (row.metrics for row in found.rows)
    assert metis.volume < random.volume / 3
    assert found.rows[1].step.total < found.rows[0].step.total


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_charts(suffix, magic, found, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    path = tmp_path / f"chart.{suffix}"
    found.chart(path)
    assert path.read_bytes().startswith(magic)
    with pytest.raises(OutputExistsError):
        found.chart(path)
    found.chart(path, nparts=2, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]


def test_maps_share_one_scale_and_every_method_has_its_line(found):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    from dasksdnn.diagnostics.compared import draw

    figure = draw(found, 2)
    images = [image for axis in figure.axes for image in axis.get_images()]
    counted = found.counted(2)
    best = min(counted, key=lambda name: counted[name].volume)
    np.testing.assert_array_equal(images[0].get_array().filled(0), counted["random"].send)
    np.testing.assert_array_equal(images[-1].get_array().filled(0), counted[best].send)
    assert len({image.get_clim() for image in images}) == 1
    lines = [line for axis in figure.axes for line in axis.get_lines()]
    assert sorted(line.get_ydata().tolist() for line in lines) == sorted(
        m.volume_per_layer.tolist() for m in counted.values()
    )


def test_charts_that_cannot_be(found, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"chart\.pdf"):
        found.chart(tmp_path / "chart.pdf")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    with pytest.raises(InputError, match=r"no method was counted at 5 parts: use one of \[2, 3\]"):
        found.chart(tmp_path / "chart.png", nparts=5)
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        found.chart(tmp_path / "chart.png")
