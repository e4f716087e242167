"""Charts are whole files of their kind; what could not be drawn is refused before the work."""

from __future__ import annotations

import sys

import pytest
from bench_cases import make

from dasksdnn.bench.chart import check_chart, write_chart
from dasksdnn.bench.compare import compare
from dasksdnn.errors import InputError, OutputExistsError


@pytest.fixture(scope="module")
def found():
    return [compare(kind, make(kind), ["scipy"], [1], 2) for kind in ("forward", "challenge")]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_charts(suffix, magic, found, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: it is in the extra [plot]")
    path = tmp_path / f"chart.{suffix}"
    check_chart(path)
    write_chart(path, found)
    assert path.read_bytes().startswith(magic)
    if suffix == "svg":
        assert "dasksdnn" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputExistsError):
        write_chart(path, found)


def test_no_chart():
    check_chart(None)
    write_chart(None, [])


def test_another_suffix(tmp_path):
    with pytest.raises(InputError, match=r"chart\.pdf"):
        check_chart(tmp_path / "chart.pdf")


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install matplotlib"):
        check_chart(tmp_path / "chart.png")
