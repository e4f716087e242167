"""Tables for people, reports for programs."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest

from dasksdnn.diagnostics.tables import count, is_device, show, show_grid, some, write_json
from dasksdnn.errors import InputError


def test_values_stand_in_one_column(capsys):
    show("info: net", {"edges": "12", "largest send": "3 words"})
    assert capsys.readouterr().out == "info: net\n  edges         12\n  largest send  3 words\n"
    show("empty", {})
    assert capsys.readouterr().out == "empty\n"


def test_grid(capsys):
    show_grid(("way", "MiB", ""), [("stay", "1200", "chosen"), ("stream ahead", "9", "")])
    lines = ["  way            MiB", "  stay          1200  chosen", "  stream ahead     9"]
    assert capsys.readouterr().out.splitlines() == lines


def test_lists_and_counts():
    assert some([]) == "none"
    assert some([3, 17]) == "3, 17"
    assert some(range(1, 1201), 2) == "1, 2, ... (1,200 in all)"
    assert [count(n, "window") for n in (0, 1, 1200)] == ["0 windows", "1 window", "1,200 windows"]


def test_json_takes_numpy_and_paths(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": np.arange(3), "b": np.float32(0.5), "c": np.bool_(True), "d": tmp_path})
    assert json.loads(path.read_text()) == {"a": [0, 1, 2], "b": 0.5, "c": True, "d": str(tmp_path)}
    assert path.read_text().endswith("}\n")


def test_json_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, {"loop": loop})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.json", "old")]
    write_json(path, {})
    assert path.read_text() == "{}\n"
    write_json(None, {})
    with pytest.raises(InputError, match="does not exist"):
        write_json(tmp_path / "no" / "report.json", {})


def test_json_into_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join()
    assert json.loads(read[0]) == {"a": 1}
    assert [is_device(p) for p in (pipe, "/dev/null", tmp_path, tmp_path / "none")] == [True, True, False, False]
