"""Progress: plain lines now and then; the bar on a terminal is tested with a process (tests/cli/test_process.py)."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn.diagnostics import progress as module
from dasksdnn.diagnostics.progress import progress
from dasksdnn.events import Progress, announce, listening


@pytest.fixture
def clock(monkeypatch):
    """Call `clock(7)`: seven seconds pass."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_line_every_few_seconds(clock, capsys):
    with progress() as tell:
        tell(Progress("write", 1, 1200, "layers"))
        clock(2)
        tell(Progress("write", 2, 1200, "layers"))
        clock(4)
        tell(Progress("write", 1100, 1200, "layers"))
        tell(Progress("read", 1, 0, "samples"))
        clock(6)
        tell(Progress("read", 5, 0, "samples"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "write: 1,100 of 1,200 layers\nread: 5 samples\n"


def test_short_work_says_nothing(capsys):
    with progress() as tell:
        for k in range(100):
            tell(Progress("write", k, 100, "layers"))
    assert capsys.readouterr().err == ""


def test_threads_may_tell(clock, capsys):
    with progress() as tell, ThreadPoolExecutor(4) as pool:
        tell(Progress("run", 0, 9, "samples"))
        clock(6)
        list(pool.map(lambda k: tell(Progress("run", k, 9, "samples")), range(9)))
    assert capsys.readouterr().err.count("\n") == 1


def test_no_stderr_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress() as tell:
        tell(Progress("run", 0, 9, "samples"))


def test_stderr_that_nobody_reads_is_no_reason_to_stop(clock, monkeypatch):
    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with progress() as tell:
        tell(Progress("run", 0, 9, "samples"))
        clock(6)
        tell(Progress("run", 1, 9, "samples"))


class Cell:
    """Stands for IPython in a kernel: what is displayed is kept."""

    def __init__(self, monkeypatch):
        self.shown = []
        shell, pages = ModuleType("IPython"), ModuleType("IPython.display")
        shell.get_ipython = lambda: SimpleNamespace(kernel=object())
        pages.HTML = str
        pages.display = self.display
        monkeypatch.setitem(sys.modules, "IPython", shell)
        monkeypatch.setitem(sys.modules, "IPython.display", pages)

    def display(self, what, display_id):
        assert display_id
        self.shown.append(what)
        return SimpleNamespace(update=self.shown.append)


def test_bars_in_a_notebook(monkeypatch, clock, capsys):
    cell = Cell(monkeypatch)
    with progress() as tell:
        for done in range(1, 501):
            tell(Progress("infer", done, 500, "<samples>"))
        tell(Progress("read", 3, 0, "blocks"))
    assert 2 <= len(cell.shown) <= 4  # not one for each event
    assert 'value="500"' in cell.shown[-1]
    assert "500 of 500 &lt;samples&gt;" in cell.shown[-1]
    assert "3 blocks" in cell.shown[-1]
    assert capsys.readouterr() == ("", "")


def test_public_functions_tell_who_listens(tmp_path, monkeypatch):
    cell = Cell(monkeypatch)
    net = sdnn.radixnet(64, 3)
    with sdnn.progress():
        store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 2, method="metis"))
        sdnn.infer(store, np.ones((40, 64), np.float32), out=tmp_path / "y.zarr")
        sdnn.train(store, np.ones((40, 64), np.float32), np.zeros(40, int), epochs=1, batch_size=20)
        assert sdnn.verify(store) == []
    for task in ("partition", "write", "infer", "train", "verify"):
        assert f">{task}<" in cell.shown[-1], task
    before = len(cell.shown)
    sdnn.verify(store)
    assert len(cell.shown) == before  # nobody listens any more


def test_who_fails_listens_no_more():
    heard = []

    def fail():
        with listening(heard.append):
            announce(Progress("infer", 1, 2, "samples"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    announce(Progress("infer", 2, 2, "samples"))
    assert [event.done for event in heard] == [1]
