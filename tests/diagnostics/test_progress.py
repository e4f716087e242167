"""Progress: plain lines now and then; the bar on a terminal is tested with a process (tests/cli/test_process.py)."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dasksdnn.diagnostics import progress as module
from dasksdnn.diagnostics.progress import progress
from dasksdnn.events import Progress


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
