"""Pictures: each draws what the numbers say, from everything that it takes, and says what it cannot draw."""

from __future__ import annotations

import json
from time import sleep

import numpy as np
import pytest
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.training.history import Epoch, History

pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")


@pytest.fixture
def net():
    return random_net(5, layers=4, widest=50)


@pytest.fixture
def part(net):
    return random_partition(net, 3)


@pytest.fixture
def store(net, part, tmp_path):
    return sdnn.save(net, tmp_path / "net.zarr", partition=part)


def drawn(figure, tmp_path):
    """The figure is drawn whole, as a file; gives its axes."""
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    return figure.axes


def test_spy_shows_every_weight(net, part, store, tmp_path):
    weights = net[1].weights
    for source, partition in ((net, None), (net, part), (store, None)):
        axes = drawn(sdnn.plots.spy(source, 2, partition=partition), tmp_path)
        assert len(axes) == 1 + (source is store or partition is not None)
        cells = [np.ma.filled(axis.images[0].get_array(), 0) for axis in axes]
        assert np.array_equal(cells[0], weights.toarray() != 0)
        assert all(shown.sum() == weights.nnz for shown in cells)
    rows, columns = (np.concatenate(store.order(k).members) for k in (2, 1))
    assert np.array_equal(cells[1], weights.toarray()[rows][:, columns] != 0)


def test_spy_refuses(net, part):
    with pytest.raises(InputError, match="layer 5 of 4"):
        sdnn.plots.spy(net, 5)
    with pytest.raises(InputError, match="another network"):
        sdnn.plots.spy(sdnn.radixnet(64, 4), 1, partition=part)


def test_a_large_layer_is_drawn_by_shade(tmp_path):
    (axis,) = drawn(sdnn.plots.spy(sdnn.radixnet(1024, 1)), tmp_path)
    assert axis.images[0].get_array().shape == (512, 512)
    assert axis.images[0].get_array().sum() == 32 * 1024


def test_sends_are_those_of_the_recount(part, store, tmp_path):
    for source in (part, store):
        axes = drawn(sdnn.plots.sends(source), tmp_path)
        assert np.array_equal(np.ma.filled(axes[0].images[0].get_array(), 0), part.metrics.send)


def test_volume_has_a_line_for_each(net, part, tmp_path):
    other = random_partition(net, 3, seed=8)
    (axis,) = drawn(sdnn.plots.volume(part, other=other), tmp_path)
    lines = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
    assert sorted(map(sum, lines.values())) == sorted([part.volume, other.volume])
    with pytest.raises(InputError, match="at least one"):
        sdnn.plots.volume()


def test_load_counts_weights(net, part, store, tmp_path):
    expected = np.zeros(3, int)
    for k, layer in enumerate(net):
        np.add.at(expected, part.owner[k + 1], np.diff(layer.weights.indptr))
    for source in (part, store):
        (axis,) = drawn(sdnn.plots.load(source), tmp_path)
        assert [bar.get_height() for bar in axis.patches] == expected.tolist()


def test_history_and_memory(tmp_path):
    epochs = tuple(Epoch(k, 3, 96, 1 / k, k / 9, 2 / k, None, 0.1, 0.5, 0, 0, 7, 100) for k in range(1, 6))
    loss, accuracy = drawn(sdnn.plots.history(History(epochs)), tmp_path)
    assert [line.get_ydata()[0] for line in loss.get_lines()] == [1.0, 2.0]
    assert accuracy.get_ylabel() == "accuracy"
    with sdnn.plots.MemoryWatch(interval=0.01) as watched:
        held = np.ones(64 << 20, np.uint8)
        sleep(0.1)
    assert watched.peak - watched.resident[0] >= 0.9 * held.nbytes
    assert len(watched.seconds) == len(watched.resident) >= 3
    (axis,) = drawn(sdnn.plots.memory(watched, budget=1 << 30, projected=1 << 29), tmp_path)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "held",
        "budget, 1,024 MiB",
        "projected peak, 512 MiB",
    ]


def report():
    contenders = [
        {"name": name, "threads": 2, "multiply_adds_per_second": rate}
        for name, rate in (("dasksdnn", 9e10), ("SciPy", 4e9))
    ]
    case = {
        "title": "radixnet",
        "multiply_adds": 10**9,
        "least_bytes": 10**7,
        "fma_peak": {"2": 1e11},
        "contenders": contenders,
    }
    return {"bandwidth": {"1": {"read": 1e10}, "2": {"read": 2e10}}, "cases": [case]}


def test_roofline(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report()))
    for given in (report(), path):
        (axis,) = drawn(sdnn.plots.roofline(given), tmp_path)
        points = [tuple(found.get_offsets()[0]) for found in axis.collections]
        assert points == [(100.0, 90.0), (100.0, 4.0)]
        roof = axis.get_lines()[0].get_ydata()
        assert roof.max() == 100.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"bandwidth": {}, "cases": []}', '{"bandwidth": {"2": 1}, "cases": [1]}']
)
def test_roofline_refuses_other_files(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match="report"):
        sdnn.plots.roofline(path)
    with pytest.raises(InputError, match="no report"):
        sdnn.plots.roofline(tmp_path / "none.json")
