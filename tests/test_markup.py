"""What shows itself in a notebook: escaped, well-formed, the same every time, bounded, in the page's own colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.sparse
from networks import random_net

import dasksdnn as sdnn
from dasksdnn import markup
from dasksdnn.network import Layer, Network
from dasksdnn.training.history import Epoch, History

NASTY = "<script>alert(1)</script> & \"q\" 'a' ]]> ünï 网络"


def parsed(html):
    """The tree, if the text is well-formed (which is more than a browser asks)."""
    tree = ElementTree.fromstring(html)
    assert not {"script", "style", "link", "img", "iframe"} & {e.tag.split("}")[-1] for e in tree.iter()}
    for element in tree.iter():
        assert not [name for name in element.attrib if name.startswith("on")]
    return tree


def words(html):
    return " ".join("".join(parsed(html).itertext()).split())


def epochs(count):
    return tuple(Epoch(k, 3, 96, 1 / k, k / 9, None, None, 0.1, 0.5, 0, 0, 7, 100) for k in range(1, count + 1))


@pytest.fixture
def shown(tmp_path):
    """Each kind of thing that shows itself, by name."""
    net = random_net(3, layers=5)
    part = sdnn.partition(net, 3, method="metis")
    store = sdnn.save(net, tmp_path / "net.zarr", partition=part)
    x = np.ones((40, net.widths[0]), np.float32)
    result = sdnn.infer(store, x, out=tmp_path / "y.zarr")
    history = History(epochs(3))
    return {
        "Network": net,
        "Partition": part,
        "Store": store,
        "Plan": sdnn.plan(store, 40, memory="2GiB"),
        "Result": result,
        "History": history,
    }


def test_everything_has_both_reprs(shown):
    for name, thing in shown.items():
        assert repr(thing).startswith(f"<dasksdnn.{name}")
        html = thing._repr_html_()
        assert f"dasksdnn.{name}" in words(html)
        assert html == thing._repr_html_()
        assert len(html) < 20_000


def test_colours_are_the_pages(shown):
    """Nothing is drawn in a fixed black or white, and nothing sets a background: both themes are served."""
    for thing in shown.values():
        html = thing._repr_html_()
        assert "background" not in html
        assert not re.search(r"(fill|stroke|color)[=:]\W?(#|black|white|rgb)", html)
        for text in parsed(html).iter("{http://www.w3.org/2000/svg}text"):
            assert text.attrib["fill"] == "currentColor"


def test_content_is_escaped(tmp_path):
    layer = Layer(scipy.sparse.eye_array(4, format="csr", dtype=np.float32), np.zeros(4, np.float32))
    net = Network.from_layers([layer], NASTY)
    store = sdnn.save(net, tmp_path / "<b>&.zarr")
    for thing in (net, store):
        assert NASTY in "".join(parsed(thing._repr_html_()).itertext())
    assert "<b>&.zarr" in words(store._repr_html_())
    for html in (
        markup.card(NASTY, markup.facts({NASTY: NASTY}), markup.grid([NASTY], [[NASTY]])),
        markup.stack({NASTY: 1.0}, NASTY, 2.0),
        markup.curves({NASTY: [1.0, 2.0]}, NASTY),
        markup.matrix(np.eye(2), NASTY),
    ):
        assert NASTY in "".join(parsed(html).itertext())


def test_large_things_stay_small():
    widths = [65536] * 1921
    held = {k: np.full(512, 128) for k in markup.drawn_layers(len(widths))}
    assert (min(held), max(held)) == (0, 1920)
    assert len(markup.chain(widths, held)) < 30_000
    assert "24 drawn" in words(markup.chain(widths, held))
    assert len(markup.matrix(np.ones((512, 512)), "all")) < 30_000
    assert len(History(epochs(500))._repr_html_()) < 60_000
    names = markup.named([1.0] * 100, "part")
    assert len(names) == markup.COLOURS
    assert sum(names.values()) == 100
    assert next(iter(names)) == "parts 0 to 5"


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.zeros((1, 1)), np.array([[0, 1], [5, 0]])])
def test_a_matrix_is_as_dark_as_its_values(values):
    cells, side = {}, min(20, 120 // len(values))
    for path in parsed(markup.matrix(values, "words")).iter("{http://www.w3.org/2000/svg}path"):
        for column, row in re.findall(r"M(\d+) (\d+)", path.attrib["d"]):
            cells[int(row) // side, int(column) // side] = float(path.attrib["fill-opacity"])
    assert set(cells) == set(map(tuple, np.argwhere(values).tolist()))
    assert all(0 < shade <= 1 for shade in cells.values())


def test_shares_of_parts_fill_a_block():
    html = markup.chain([10, 4], {0: np.array([5, 5]), 1: np.array([4, 0])})
    heights = [
        [float(h) for h in re.findall(r"v([\d.]+)h-12", path.attrib["d"])]
        for path in parsed(html).iter("{http://www.w3.org/2000/svg}path")
    ]
    assert heights == [[36.0, 28.8], [36.0]]


def test_curves_leave_out_what_is_not_there():
    assert markup.curves({"loss": [None, float("nan")]}, "loss") == ""
    html = markup.curves({"loss": [1.0, None, 0.5], "validation": [None] * 3}, "loss by epoch")
    assert "validation" not in words(html)
    lines = list(parsed(html).iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 1
    assert len(lines[0].attrib["points"].split()) == 2


def test_estimators_show_themselves():
    html = sdnn.SparseDNNClassifier(density=0.25)._repr_html_()
    assert "density" in html
    assert "0.25" in html
