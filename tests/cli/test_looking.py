"""Help, info, verify and the demo."""

from __future__ import annotations

import json

import pytest

import dasksdnn
from dasksdnn.cli.main import cli


def test_help_without_arguments(run):
    printed = run().out
    assert printed == run("--help").out == run("-h").out
    listed = [line.split()[0] for line in printed.split("Commands:\n")[1].splitlines()]
    assert listed == [
        "demo",
        "generate",
        "import",
        "partition",
        "plan",
        "infer",
        "train",
        "evaluate",
        "info",
        "verify",
        "export",
        "report",
        "bench",
    ]
    assert "community" in run("generate").out
    assert "graphchallenge" in run("import").out


def commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_every_help_reads_well(path, run):
    text = run(*path, "--help").out
    assert text.startswith(f"Usage: dasksdnn {' '.join(path)} ")
    listed = text.partition("Commands:")[2]
    assert "..." not in listed
    for option in cli_options(path):
        assert getattr(option, "help", None), option.name


def cli_options(path):
    command = cli
    for name in path:
        command = command.commands[name]
    return [p for p in command.params if p.param_type_name == "option"]


def test_version(run):
    assert dasksdnn.__version__ in run("--version").out


def test_info(store3, report, run):
    found = report("info", store3)
    assert (found["nparts"], found["edges"], found["layers"]) == (3, 8192, 4)
    assert {"volume", "messages", "max_send", "imbalance", "digest", "stored_bytes"} <= found.keys()
    printed = run("info", store3).out
    assert "3 by block" in printed


def test_verify(store3, report, run):
    assert report("verify", store3)["findings"] == []
    assert "sound" in run("verify", store3).out


def test_verify_names_what_is_damaged(store3, report, run):
    data = next(store3.glob("parts/0001/*/state*/data/c/0"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 16
    data.write_bytes(content)
    found = report("verify", store3, status=2)
    assert found["sound"] is False
    assert found["findings"][0]["part"] == 1
    assert found["findings"][0]["array"] == "data"
    outcome = run("verify", store3, status=2)
    assert "1 fault" in outcome.out
    assert outcome.err.count("\n") == 1
    for words in (str(store3), "part 1", "layer", "data"):
        assert words in outcome.err
    assert "dasksdnn verify" not in outcome.err


@pytest.mark.parametrize("layers", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_demo(layers, run, tmp_path, monkeypatch):
    from dasksdnn.diagnostics import demo

    monkeypatch.setattr(demo, "LAYERS", layers)
    path = tmp_path / "demo.json"
    printed = run("demo", "--nparts", 4, "--memory", "2GiB", "--threads", 2, "--json", path).out
    found = json.loads(path.read_text())
    assert found["matches_reference"] is True
    assert found["edges"] == 1024 * 32 * layers
    assert found["volume"] < found["random_volume"]
    assert found["peak_rss_bytes"] <= 2 << 30
    rows = dict(line.strip().split("  ", 1) for line in printed.splitlines()[1:])
    assert rows["matches the reference"].strip() == "yes"
    for name in ("edges", "volume", "messages", "imbalance", "seconds", "edges/s", "peak memory", "categories"):
        assert rows[name].strip()


def test_demo_kept(run, tmp_path, monkeypatch):
    """The work itself is tested above: here, only where it is left."""
    import dask.config

    from dasksdnn.diagnostics import demo

    monkeypatch.setattr(demo, "LAYERS", 2)
    with dask.config.set({"dasksdnn.data-root": str(tmp_path / "root")}):
        for _ in range(2):  # the second replaces the first
            assert str(tmp_path / "root" / "demo") in run("demo", "--nparts", 2, "--memory", "2GiB", "--keep").out
    assert {"radixnet.zarr", "outputs.zarr"} == {p.name for p in (tmp_path / "root" / "demo").iterdir()}
