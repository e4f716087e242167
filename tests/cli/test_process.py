"""What only a process shows: signals, pipes, terminals, full disks, missing permissions."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from watching import children, is_alive, partial, told

import dasksdnn as sdnn


@pytest.fixture(scope="session")
def deep(tmp_path_factory):
    """A store whose partition takes seconds, and samples whose inference does: the tests stop both on the way."""
    folder = tmp_path_factory.mktemp("deep")
    sdnn.save(sdnn.radixnet(1024, 120, bias=0.0), folder / "deep.zarr")
    np.save(folder / "x.npy", np.ones((40_000, 1024), np.uint8))
    return folder


def wait_for(condition, started):
    """Wait until what the test needs to see on the way has happened."""
    end = time.monotonic() + 60
    while not condition():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def arguments(name, deep, out):
    return {
        "generate": ["generate", "radixnet", "--neurons", 16384, "--layers", 2000, "--weights", "random", "--out", out],
        "partition": ["partition", deep / "deep.zarr", "--nparts", 32, "--out", out],
        "infer": ["infer", deep / "deep.zarr", "--input", deep / "x.npy", "--output", out, "--threads", 1],
    }[name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("name", ["generate", "partition", "infer"])
def test_ctrl_c(name, deep, spawn, tmp_path):
    out = tmp_path / "out.zarr"
    started = spawn(*arguments(name, deep, out))
    wait_for(lambda: children(started) if name == "partition" else partial(tmp_path), started)
    helpers = children(started)
    started.send_signal(signal.SIGINT)
    time.sleep(0.01)
    started.send_signal(signal.SIGINT)  # an impatient second one changes nothing
    printed, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert printed == ""
    (line,) = told(said)
    assert line.startswith("dasksdnn: ")
    assert list(tmp_path.iterdir()) == []
    assert not any(map(is_alive, helpers))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ways_to_be_stopped(number, deep, spawn, tmp_path):
    started = spawn(*arguments("generate", deep, tmp_path / "out.zarr"))
    wait_for(lambda: partial(tmp_path), started)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 128 + number
    assert len(told(said)) == 1
    assert list(tmp_path.iterdir()) == []


def test_killed(deep, spawn, run, store, snapshot, tmp_path):
    """What nobody can tidy up: the old store stays, and the next writer removes the rubbish."""
    before = snapshot()
    started = spawn(*arguments("generate", deep, store), "--overwrite")
    wait_for(lambda: partial(tmp_path), started)
    started.kill()
    started.communicate()
    assert {path: content for path, content in snapshot().items() if path in before} == before
    run("generate", "radixnet", "--neurons", 64, "--layers", 2, "--out", store, "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["net.zarr"]


def test_reader_of_the_output_gone(store, spawn, tmp_path):
    """As `| head -1` leaves it."""
    read, write = os.pipe()
    os.close(read)
    started = spawn("info", store, "--json", tmp_path / "report.json", stdout=write)
    os.close(write)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (1, "")
    assert json.loads((tmp_path / "report.json").read_text())["nparts"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_cannot_be_printed(store, spawn):
    with open("/dev/full", "w") as full:
        started = spawn("info", store, stdout=full)
        _, said = started.communicate(timeout=60)
    assert started.returncode == 2
    assert said.count("\n") == 1
    assert "full" in said


def test_report_to_a_pipe(store, spawn):
    read, write = os.pipe()
    started = spawn("info", store, "--json", f"/dev/fd/{write}", pass_fds=[write])
    os.close(write)
    with open(read) as stream:
        assert json.load(stream)["command"] == "info"
    assert started.wait(timeout=60) == 0
    started.communicate()


def on_a_terminal(spawn, *command):
    """What a command shows on a terminal, and its status."""
    ours, theirs = pty.openpty()
    started = spawn(*command, stdout=theirs, stderr=theirs, env_extra={"TERM": "xterm-256color", "COLUMNS": "100"})
    os.close(theirs)
    shown = b""
    while True:
        piece = b""
        with suppress(OSError):  # Linux gives an error where the other side is closed
            piece = os.read(ours, 1 << 16)
        if not piece:
            break
        shown += piece
    os.close(ours)
    return shown.decode(), started.wait(timeout=60)


def test_bar_on_a_terminal(spawn, run, tmp_path):
    command = ["generate", "radixnet", "--neurons", 64, "--layers", 40, "--out"]
    shown, status = on_a_terminal(spawn, *command, tmp_path / "net.zarr")
    assert status == 0
    assert "━" in shown
    assert "40 of 40 layers" in shown
    assert "━" not in run(*command, tmp_path / "other.zarr").err


def test_refusal_on_a_terminal(spawn, tmp_path):
    shown, status = on_a_terminal(spawn, "info", tmp_path / "none")
    assert status == 2
    assert shown.count("\n") == 1


@contextmanager
def files_no_larger_than(size):
    """Writing more to a file fails as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def writers(store, npy, folder):
    """Commands that write more than fits; one replaces what is there already."""
    yield ["generate", "radixnet", "--neurons", 1024, "--layers", 20, "--weights", "random", "--out", folder / "a"]
    yield ["partition", store, "--nparts", 2, "--method", "random", "--out", folder / "b"]
    yield ["infer", store, "--input", npy, "--output", folder / "old.zarr", "--overwrite"]


@pytest.fixture
def wide(tmp_path):
    """A store and samples whose outputs do not compress."""
    folder = tmp_path / "wide"
    folder.mkdir()
    sdnn.save(sdnn.random_network(1024, 2, activation="identity"), folder / "net.zarr")
    np.save(folder / "x.npy", np.random.default_rng(0).random((500, 1024), np.float32))
    return folder / "net.zarr", folder / "x.npy"


@pytest.fixture
def old(run, wide, tmp_path):
    """Make an output that is to be kept."""

    def make(folder):
        run("generate", "radixnet", "--neurons", 32, "--layers", 1, "--out", folder / "old.zarr")

    return make


def test_file_size_limit(wide, old, refused, tmp_path):
    old(tmp_path)
    for command in writers(*wide, tmp_path):
        with files_no_larger_than(60_000):
            refused(*command, says=["limit"])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or not mount:
        pytest.skip("needs root to mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(wide, old, small_disk, refused):
    old(small_disk)
    for command in writers(*wide, small_disk):
        refused(*command, says=[small_disk, "full"])


def test_full_disk_for_scratch_and_lists(small_disk, store, refused, monkeypatch, tmp_path):
    lines = "".join(f"{i}\t{k}\t1\n" for i in range(1, 401) for k in range(1, 65))
    (tmp_path / "x.tsv").write_text(lines)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    refused("infer", store, "--input", tmp_path / "x.tsv", says=[small_disk, "scratch"])
    monkeypatch.undo()
    (small_disk / "filler").write_bytes(b"x" * 180_000)
    with suppress(OSError):  # fill it to the last byte
        (small_disk / "more").write_bytes(b"x" * 100_000)
    np.save(tmp_path / "x.npy", np.ones((4, 64), np.float32))
    refused("infer", store, "--input", tmp_path / "x.npy", "--categories", small_disk / "c.tsv", says=["full"])
    refused("info", store, "--json", small_disk / "report.json", says=["full"], printed=True)


@pytest.fixture
def closed(store, npy, tmp_path):
    """A folder in which nothing may be written, with a file and a store that may not be read."""
    if sys.platform != "linux" and not os.geteuid():
        pytest.skip("root can only give up its privileges on Linux")
    folder = tmp_path / "closed"
    folder.mkdir()
    shutil.copy(npy, folder / "secret.npy")
    shutil.copytree(store, folder / "secret.zarr")
    (folder / "secret.npy").chmod(0)
    (folder / "secret.zarr").chmod(0)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    (folder / "secret.zarr").chmod(0o755)


def test_no_permission(closed, store, npy, spawn, snapshot):
    (closed / "secret.zarr").chmod(0o755)
    before = snapshot()
    (closed / "secret.zarr").chmod(0)
    commands = {
        "a.zarr": ["generate", "radixnet", "--neurons", 64, "--layers", 2, "--out", closed / "a.zarr"],
        "y.zarr": ["infer", store, "--input", npy, "--output", closed / "y.zarr"],
        "secret.npy": ["infer", store, "--input", closed / "secret.npy"],
        "secret.zarr": ["info", closed / "secret.zarr"],
        "report.json": ["info", store, "--json", closed / "report.json"],
    }
    started = {named: spawn(*command, lower=not os.geteuid()) for named, command in commands.items()}
    for named, process in started.items():
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out, said.count("\n")) == (2, "", 1), said
        assert named in said
        assert "permission" in said
    (closed / "secret.zarr").chmod(0o755)
    assert snapshot() == before


def test_bad_input_before_kernels_are_kept(store, npy, spawn, tmp_path):
    """One line, as ever; and what can be refused at once is refused before anything is compiled."""
    commands = [["--threads", 0], ["--memory", "much"], ["--memory", "1MiB"]]
    folders = [tmp_path / f"cache{k}" for k in range(len(commands))]
    started = [
        spawn("infer", store, "--input", npy, *command, env_extra={"DASK_DASKSDNN__CACHE": str(folder)})
        for command, folder in zip(commands, folders, strict=True)
    ]
    for process in started:
        printed, said = process.communicate(timeout=120)
        assert (process.returncode, printed, len(told(said))) == (2, "", 1), said
        assert told(said)[0].startswith("dasksdnn: ")
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_compilation_is_shown_once(store, npy, spawn, monkeypatch, tmp_path):
    """A bar on a terminal, where kernels are compiled; nothing where they are kept."""
    command = ["infer", store, "--input", npy]
    monkeypatch.setenv("DASK_DASKSDNN__CACHE", str(tmp_path / "cache"))
    for kept in (False, True):
        shown, status = on_a_terminal(spawn, *command)
        assert status == 0
        assert ("compile" in shown) != kept
        assert "compiling" not in shown
    printed, said = spawn(*command).communicate(timeout=60)
    assert "samples" in printed
    assert said == ""
