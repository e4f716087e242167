"""The page's tables and pictures."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from dasksdnn.diagnostics.page import bars, columns, heat, lines, number, page, section, table

NASTY = '<script>alert("&")</script>'


def svg(markup):
    """The one picture of some markup, parsed."""
    (found,) = re.findall(r"<svg.*?</svg>", markup, re.DOTALL)
    return ElementTree.fromstring(found)


def test_every_text_is_escaped():
    made = page(
        NASTY,
        NASTY,
        [
            section(NASTY, table([NASTY], [[NASTY]])),
            lines(NASTY, NASTY, NASTY, {NASTY: [(1, 2), (2, 3)]}),
            columns(NASTY, NASTY, NASTY, [1, 2]),
            bars(NASTY, NASTY, {NASTY: [1, 2]}, [NASTY, NASTY]),
            heat(NASTY, NASTY, NASTY, [[0, 1], [2, 0]]),
        ],
    )
    assert "<script" not in made
    assert made.count("&lt;script&gt;") > 15
    assert set(re.findall(r"""(?:src|href|url)[=(]["']?([^"')]*)""", made)) == {"data:,"}  # it loads nothing


def test_what_is_not_there_is_not_drawn():
    assert table(["a"], []) == lines("", "", "", {"a": []}) == columns("", "", "", []) == bars("", "", {}) == ""
    assert heat("", "", "", [[0, 0], [0, 0]]) == section("title", "") == ""
    assert lines("", "", "", {"a": [(1.0, float("nan"))]}) == ""


def test_curves_go_through_their_points():
    picture = svg(lines("loss", "epoch", "loss", {"training": [(1, 4.0), (2, 2.0), (3, 0.0)], "none": []}))
    (line,) = picture.iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    assert [b[0] - a[0] > 0 and b[1] - a[1] > 0 for a, b in pairwise(points)] == [True, True]
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)


def test_bars_are_as_long_as_their_values():
    picture = svg(bars("time", "s", {"rank 0": [1.0, 3.0], "rank 1": [2.0, 0.0]}, ["computing", "waiting"]))
    wide = [float(rect.get("width")) for rect in picture.iter("rect")]
    assert wide[1] == pytest.approx(3 * wide[0], abs=0.3)
    assert wide[2] == pytest.approx(2 * wide[0], abs=0.3)
    assert "4 s" in [text.text for text in picture.iter("text")]


def test_cells_are_as_dark_as_their_values():
    picture = svg(heat("words", "to", "from", [[0, 10], [5, 0]]))
    dark = [float(rect.get("fill-opacity")) for rect in picture.iter("rect") if rect.get("fill-opacity")]
    assert dark == pytest.approx([1.0, 0.54])


def test_one_value_has_axes_too():
    assert len(list(svg(columns("", "layer", "MB", [3.0])).iter("rect"))) == 1
    assert len(list(svg(lines("", "epoch", "loss", {"training": [(1, 0.5)]})).iter("circle"))) == 1
    assert svg(columns("", "layer", "MB", [0.0, 0.0])) is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (1234, "1,234"),
        (1234.5, "1,234"),
        (0.001234, "0.00123"),
        (4_560_000, "4.56 M"),
        (2e9, "2 G"),
    ],
)
def test_numbers_are_for_people(value, text):
    assert number(value) == text
