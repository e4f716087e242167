"""What was interrupted is gone on with, gives the same bytes, and is never taken for something else."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys

import pytest
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import OutputExistsError, StoreError
from dasksdnn.network import Network
from dasksdnn.store.verify import verify

WINDOW = 1000


class StoppedError(Exception):
    """Stands for whatever ends a write early."""


@pytest.fixture(scope="module")
def net():
    return random_net(7, layers=12, widest=40)


@pytest.fixture(scope="module")
def whole(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "net.zarr"
    store = sdnn.save(net, path, partition=random_partition(net, 3), window=WINDOW)
    assert min(len(store.windows(part)) for part in range(3)) > 3
    return content(path)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stopping(after):
    def listen(event):
        if event.done == after:
            raise StoppedError

    return listen


def watched(net):
    loads = []

    def load(k):
        loads.append(k)
        return net[k]

    return Network(net.widths, load, net.dtype, net.name, fingerprint="the network"), loads


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def begun(net, tmp_path):
    """A target whose writing stopped behind nine layers, and what it takes to go on."""
    how = {"partition": random_partition(net, 3), "window": WINDOW, "resume": True}
    with pytest.raises(StoppedError) as stopped:
        sdnn.save(watched(net)[0], tmp_path / "net.zarr", listener=stopping(9), **how)
    folder = tmp_path / ".net.zarr.resumable"
    assert stopped.value.__notes__ == [
        f"{folder} keeps what is written: go on with --resume (resume=True), or remove it"
    ]
    assert names(tmp_path) == [folder.name]
    return tmp_path / "net.zarr", folder, how


def test_uninterrupted(net, whole, tmp_path):
    again, loads = watched(net)
    sdnn.save(again, tmp_path / "net.zarr", partition=random_partition(net, 3), window=WINDOW, resume=True)
    assert content(tmp_path / "net.zarr") == whole
    assert loads == list(range(12))
    assert names(tmp_path) == ["net.zarr"]


def test_going_on(net, whole, begun):
    path, _, how = begun
    again, loads = watched(net)
    sdnn.save(again, path, **how)
    assert content(path) == whole
    assert loads == list(range(loads[0], 12))  # one after the other, each once
    assert loads[0] > 3
    assert names(path.parent) == ["net.zarr"]


def test_stopped_again_and_again(net, whole, tmp_path):
    path, starts = tmp_path / "net.zarr", []
    for after in [*range(1, 13), 13]:
        again, loads = watched(net)
        how = {"partition": random_partition(net, 3), "window": WINDOW, "resume": True}
        try:
            sdnn.save(again, path, listener=stopping(after), **how)
        except StoppedError:
            assert after < 13
        starts.append(loads[0])
    assert starts == sorted(starts)
    assert content(path) == whole


def test_stopped_before_the_rename(net, whole, begun, monkeypatch):
    from dasksdnn import atomic

    path, folder, how = begun
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_rename", lambda *arguments: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            sdnn.save(watched(net)[0], path, **how)
    assert (folder / "store" / "manifest").is_dir()
    again, loads = watched(net)
    sdnn.save(again, path, **how)
    assert loads == [11]  # for the order of its rows only
    assert content(path) == whole


def damage_chunk(folder):
    chunk = max(folder.glob("store/parts/0001/*/state-000000/data/c/0"))
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"123456789")


def damage_first_window(folder):
    next(folder.glob("store/parts/0000/0000/structure/rows/c/0")).unlink()


def damage_groups(folder):
    for path in (folder / "store", folder / "store" / "parts", folder / "store" / "parts" / "0002"):
        (path / "zarr.json").write_bytes(b"")
    (folder / "store" / "parts" / "zarr.0123.partial").write_bytes(b"{")


def tear_journal(folder):
    with open(folder / "journal", "r+b") as file:
        file.truncate(len(file.read()) - 5)


def damage_journal(folder):
    lines = (folder / "journal").read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"[1]\n"
    (folder / "journal").write_bytes(b"".join(lines))


def empty_journal(folder):
    (folder / "journal").write_bytes(b'{"writing"')


def add_strays(folder):
    (folder / "store" / "parts" / "0000" / "0099" / "structure").mkdir(parents=True)
    (folder / "store" / "owner").mkdir()
    (folder / "store" / "manifest").mkdir()


@pytest.mark.parametrize(
    "harm",
    [damage_chunk, damage_first_window, damage_groups, tear_journal, damage_journal, empty_journal, add_strays],
)
def test_what_is_not_whole_is_written_again(net, whole, begun, harm):
    path, folder, how = begun
    harm(folder)
    with pytest.raises(StoppedError):  # a second stop finds the journal as the first left it
        sdnn.save(watched(net)[0], path, listener=stopping(10), **how)
    sdnn.save(watched(net)[0], path, **how)
    assert content(path) == whole
    assert verify(path) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"net": 8}, "another network"),
        ({"partition": 1}, "another partition"),
        ({"window": 4000}, "another window"),
        ({"window": None}, "another window"),
    ],
)
def test_another_store_is_refused(net, whole, begun, change, says):
    path, folder, how = begun
    before = content(folder)
    other, _ = watched(net)
    if "net" in change:
        other.fingerprint = "another"
    if "partition" in change:
        change = {"partition": random_partition(net, 3, seed=1)}
    with pytest.raises(StoreError, match=says) as refused:
        sdnn.save(other, path, **{**how, **{k: v for k, v in change.items() if k != "net"}})
    assert "\n" not in str(refused.value)
    assert content(folder) == before
    sdnn.save(watched(net)[0], path, **how)
    assert content(path) == whole


def test_values_count_where_a_network_is_of_no_store(net, tmp_path):
    path = tmp_path / "net.zarr"
    with pytest.raises(StoppedError):
        sdnn.save(net, path, resume=True, listener=stopping(2))
    other = Network(net.widths, lambda k: type(net[k])(net[k].weights, net[k].bias + 1, net[k].activation))
    with pytest.raises(StoreError, match="another network"):
        sdnn.save(other, path, resume=True)
    assert sdnn.save(net, path, resume=True).edges == net.edges


def test_a_damaged_journal_is_named(net, begun):
    path, folder, how = begun
    (folder / "journal").write_bytes(b"[]\n")
    with pytest.raises(StoreError, match="its journal is damaged: remove the folder"):
        sdnn.save(watched(net)[0], path, **how)


def test_one_process_at_a_time(net, begun):
    path, folder, how = begun
    with open(folder / "journal", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process is writing it"):
            sdnn.save(watched(net)[0], path, **how)
        sdnn.save(net, path)
        assert folder.is_dir()


def test_a_plain_write_removes_it_once_it_is_done(net, begun):
    path, folder, _ = begun
    with pytest.raises(StoppedError):
        sdnn.save(net, path, listener=stopping(3))
    assert names(path.parent) == [folder.name]
    sdnn.save(net, path)
    assert names(path.parent) == ["net.zarr"]


def test_what_stands_there_is_kept(net, whole, begun):
    path, _, how = begun
    old = random_net(1, layers=2)
    path.mkdir()
    with pytest.raises(OutputExistsError):
        sdnn.save(watched(net)[0], path, **how)
    path.rmdir()
    sdnn.save(old, path.with_name("old"))
    path.with_name("old").rename(path)
    with pytest.raises(StoppedError):
        sdnn.save(watched(net)[0], path, overwrite=True, listener=stopping(11), **how)
    assert sdnn.open_store(path).widths == old.widths
    sdnn.save(watched(net)[0], path, overwrite=True, **how)
    assert content(path) == whole
    assert names(path.parent) == ["net.zarr"]


SLOW_SAVE = """
import sys, time
import dasksdnn as sdnn
from dasksdnn.partition.partition import partition
def slow(event):
    print(event.done, flush=True)
    time.sleep(0.02)
net = sdnn.radixnet(64, 60, weights="random")
sdnn.save(net, sys.argv[1], partition=partition(net, 3, method="block"), listener=slow, window=20000, resume=True)
"""


def test_killed(tmp_path):
    """kill -9, at several moments, until it is done."""
    command = [sys.executable, "-P", "-c", SLOW_SAVE, str(tmp_path / "net.zarr")]
    reached = []
    for lines in (15, 10, 12):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            reached.append([int(process.stdout.readline()) for _ in range(lines)])
            process.send_signal(signal.SIGKILL)
        assert names(tmp_path) == [".net.zarr.resumable"]
    assert 1 < reached[1][0] <= 17
    assert reached[1][0] < reached[2][0]
    net = sdnn.radixnet(64, 60, weights="random")
    part = sdnn.partition(net, 3, method="block")
    again = sdnn.save(net, tmp_path / "net.zarr", partition=part, window=20000, resume=True)
    once = sdnn.save(net, tmp_path / "once.zarr", partition=part, window=20000)
    assert again.digest == once.digest
    assert content(again.path) == content(once.path)
    assert names(tmp_path) == ["net.zarr", "once.zarr"]


def test_a_journal_can_be_read(begun):
    _, folder, _ = begun
    first, *records = map(json.loads, (folder / "journal").read_text().splitlines())
    assert set(first["writing"]) == {"release of dasksdnn or Zarr", "network", "partition", "window"}
    assert [r["layer"] for r in records if "layer" in r] == list(range(9))
