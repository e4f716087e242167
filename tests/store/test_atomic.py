"""A store appears whole or not at all, whatever stops its writer."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from networks import random_net

import dasksdnn as sdnn
from dasksdnn.atomic import replacing
from dasksdnn.errors import InputError, OutputExistsError, StoreError
from dasksdnn.store.reader import open_store
from dasksdnn.store.verify import verify

SLOW_SAVE = """
import sys, time
import dasksdnn as sdnn
def slow(event):
    print(event.done, flush=True)
    time.sleep(0.05)
sdnn.save(sdnn.radixnet(64, 200), sys.argv[1], overwrite=True, listener=slow, window=20000)
"""


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("old", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, error, old):
    first = random_net(1, layers=2)
    if old:
        sdnn.save(first, tmp_path / "net.zarr")
    before = names(tmp_path)

    def stop(event):
        raise error

    with pytest.raises(error):
        sdnn.save(random_net(2, layers=3), tmp_path / "net.zarr", overwrite=True, listener=stop)
    assert names(tmp_path) == before
    if old:
        assert open_store(tmp_path / "net.zarr").widths == first.widths


@pytest.mark.parametrize("old", [False, True])
def test_a_killed_writer(tmp_path, old):
    first = random_net(1, layers=2)
    if old:
        sdnn.save(first, tmp_path / "net.zarr")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SLOW_SAVE, str(tmp_path / "net.zarr")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    visible = [name for name in names(tmp_path) if not name.startswith(".")]
    assert visible == (["net.zarr"] if old else [])
    assert len(names(tmp_path)) == len(visible) + 1  # what the killed writer left
    if old:
        assert open_store(tmp_path / "net.zarr").widths == first.widths
    second = random_net(2, layers=3)
    sdnn.save(second, tmp_path / "net.zarr", overwrite=True)
    assert names(tmp_path) == ["net.zarr"]
    assert verify(tmp_path / "net.zarr") == []


LIMITED = """
import resource, signal, sys
import dasksdnn as sdnn
from dasksdnn.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    sdnn.save(sdnn.radixnet(1024, 12, weights="random"), sys.argv[1])
except StoreError as error:
    print(error)
"""


def test_a_file_that_cannot_grow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", LIMITED, str(tmp_path / "net.zarr")], capture_output=True, text=True, check=True
    )
    assert "size limit" in done.stdout
    assert done.stderr == ""
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mounted)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk(small_disk):
    sdnn.save(random_net(1, layers=1), small_disk / "old.zarr")
    for name in ("new.zarr", "old.zarr"):
        with pytest.raises(StoreError, match="the disk is full"):
            sdnn.save(sdnn.radixnet(1024, 12, weights="random"), small_disk / name, overwrite=True)
        assert names(small_disk) == ["old.zarr"]
    assert verify(small_disk / "old.zarr") == []


def test_files_are_replaced_too(tmp_path):
    target = tmp_path / "x.txt"
    with replacing(target) as temporary:
        temporary.write_text("one")
    with replacing(target, overwrite=True) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    with replacing(target, overwrite=True) as temporary:
        temporary.mkdir()
    assert target.is_dir()
    assert names(tmp_path) == ["x.txt"]


def test_where_the_system_cannot_exchange(tmp_path, monkeypatch):
    from dasksdnn import atomic

    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr")
    second = random_net(2, layers=3)
    sdnn.save(second, tmp_path / "net.zarr", overwrite=True)
    assert open_store(tmp_path / "net.zarr").widths == second.widths
    assert names(tmp_path) == ["net.zarr"]


def test_a_living_writers_files_are_not_removed(tmp_path):
    with replacing(tmp_path / "net.zarr") as temporary:
        temporary.mkdir()
        with replacing(tmp_path / "net.zarr", overwrite=True) as other:
            other.mkdir()
            assert temporary.is_dir()
            assert os.path.samefile(temporary.parent, other.parent)
        (tmp_path / "net.zarr").rmdir()
    assert names(tmp_path) == ["net.zarr"]


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist; create it"):
        sdnn.save(random_net(1, layers=1), tmp_path / "none" / "net.zarr")


INTERRUPTED = """
import shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
import dasksdnn as sdnn
# What is imported on the way is there already: Python ignores an interrupt that falls into some of its import callbacks.
sdnn.save(sdnn.random_network(8, 1, degree=2), sys.argv[1])
shutil.rmtree(sys.argv[1])
net = sdnn.radixnet(1024, 400, weights="random")
print("go", flush=True)
try:
    sdnn.save(net, sys.argv[1], window=200_000)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("delay", [0.15, 0.3, 0.45, 0.6])
def test_ctrl_c_at_any_moment(tmp_path, delay):
    """Zarr writes in a thread of its own, which Ctrl-C does not stop: it must be waited for."""
    command = [sys.executable, "-P", "-c", INTERRUPTED, str(tmp_path / "net.zarr")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
    assert names(tmp_path) == []


def leftover(folder, process, ending="partial"):
    path = folder / f".net.zarr.{socket.gethostname()}.{process}.0123abcd.{ending}"
    path.mkdir()
    (path / "zarr.json").write_text("{}")
    return path


def test_leftovers(tmp_path):
    gone = subprocess.Popen([sys.executable, "-P", "-c", ""])
    gone.wait()
    living = [leftover(tmp_path, number) for number in {1, os.getppid()}]
    other = tmp_path / f".net.zarr.another-host.{gone.pid}.0123abcd.partial"
    other.mkdir()
    # A container gives its processes the same number again and again.
    remains = [leftover(tmp_path, gone.pid), leftover(tmp_path, os.getpid()), leftover(tmp_path, gone.pid, "old")]
    sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr")
    assert all(path.exists() for path in [*living, other])
    # What was put aside is kept until there is a new store.
    assert [path.exists() for path in remains] == [False, False, True]
    sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr", overwrite=True)
    assert not remains[2].exists()


def test_a_failed_rename_puts_the_old_back(tmp_path, monkeypatch):
    from dasksdnn import atomic

    first = random_net(1, layers=2)
    sdnn.save(first, tmp_path / "net.zarr")
    rename = os.rename

    def fail(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.EIO, "no")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(StoreError, match=r"net\.zarr: OSError"):
        sdnn.save(random_net(2, layers=3), tmp_path / "net.zarr", overwrite=True)
    assert names(tmp_path) == ["net.zarr"]
    assert open_store(tmp_path / "net.zarr").widths == first.widths


def test_what_appears_meanwhile_is_kept(tmp_path):
    def appear(event):
        (tmp_path / "net.zarr").mkdir(exist_ok=True)

    with pytest.raises(OutputExistsError, match="is kept"):
        sdnn.save(random_net(1, layers=2), tmp_path / "net.zarr", listener=appear)
    assert names(tmp_path) == ["net.zarr"]
    assert names(tmp_path / "net.zarr") == []


def test_an_existing_path_is_kept(tmp_path):
    (tmp_path / "net.zarr").write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr")
    assert (tmp_path / "net.zarr").read_text() == "mine"
    sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr", overwrite=True)
    assert verify(tmp_path / "net.zarr") == []


def test_a_broken_pipe_of_the_listener_is_not_the_stores(tmp_path):
    def gone(event):
        raise BrokenPipeError(errno.EPIPE, "gone")

    with pytest.raises(BrokenPipeError):
        sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr", listener=gone)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="no permission"):
        sdnn.save(random_net(1, layers=1), tmp_path / "net.zarr")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that takes no files")
def test_a_place_that_takes_no_files_is_named_with_a_remedy():
    with pytest.raises(StoreError, match=r"^/proc/net.zarr: FileNotFoundError \([^/]*\): choose another place$"):
        sdnn.save(random_net(1, layers=1), "/proc/net.zarr")
