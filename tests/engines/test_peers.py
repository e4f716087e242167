"""Messages between tasks on Dask workers: any size, both ways, in order; whoever is lost ends the others; nothing is left."""

from __future__ import annotations

import os
import signal
import sys
from threading import Thread
from time import monotonic, sleep
from uuid import uuid4

import numpy as np
import pytest
from clusters import pids, until

from dasksdnn.engines.cluster import mailbox
from dasksdnn.engines.transport import exchange
from dasksdnn.kernels import ring

RING = 4 << 20
both = pytest.mark.parametrize("shared", [True, False], ids=["memory", "comms"])


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """Workers cannot import this module."""
    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    from clusters import running_cluster

    with running_cluster(tmp_path_factory.mktemp("four"), workers=4) as client:
        yield client


def start(client, program, shared=True, run=None, ranks=None, **options):
    """A future for each rank of a new run of `program(peers, **options)`; who has joined raises `Event(run-rank)`."""
    addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])[:ranks]
    client.run(_attend)
    run = run or uuid4().hex

    def task(rank):
        from distributed import Event

        from dasksdnn.engines.cluster.peers import join

        peers = join(run, rank, addresses, shared)
        try:
            Event(f"{run}-{rank}").set()
            return program(peers, **options)
        finally:
            peers.close()

    return [
        client.submit(task, rank, workers=[address], allow_other_workers=False, pure=False, retries=0)
        for rank, address in enumerate(addresses)
    ]


def _attend(dask_worker):
    from dasksdnn.engines.cluster.mailbox import attend

    attend(dask_worker)


def until_joined(client, run, ranks):
    from distributed import Event

    for rank in range(ranks):
        assert Event(f"{run}-{rank}", client=client).wait(60)


def results(futures, seconds=60):
    return [future.result(timeout=seconds) for future in futures]


def content(source, to, number, size):
    return np.random.default_rng([source, to, number]).integers(0, 255, size, dtype=np.uint8)


# -- the ring


@pytest.mark.parametrize("room", [64, 1000, 4096])
def test_a_ring_carries_messages_of_all_sizes(room):
    place = np.zeros(ring.HEAD + room, np.uint8)
    sizes = np.random.default_rng(room).integers(0, 3 * room, 200).tolist()
    sent = [content(0, 1, number, size) for number, size in enumerate(sizes)]

    def write():
        for values in sent:
            at = -ring.LENGTH
            while at < values.size:
                at += ring.write(place, values, at)

    writer = Thread(target=write, daemon=True)
    writer.start()
    end = monotonic() + 60
    for values in sent:
        out, at = np.zeros(values.size, np.uint8), -ring.LENGTH
        while at < out.size:
            count = ring.read(place, out, at)
            assert count >= 0
            assert monotonic() < end
            at += count
        assert np.array_equal(out, values)
    writer.join(10)
    assert ring.holds(place) == 0


def test_a_ring_tells_the_length_of_what_is_there():
    place, values = np.zeros(ring.HEAD + 64, np.uint8), np.arange(24, dtype=np.uint8)
    assert ring.read(place, values, -ring.LENGTH) == 0
    assert ring.write(place, values, -ring.LENGTH) == 32
    assert ring.read(place, np.zeros(8, np.uint8), -ring.LENGTH) == -1 - 24
    out = np.zeros(24, np.uint8)
    assert ring.read(place, out, -ring.LENGTH) == 32
    assert np.array_equal(out, values)


# -- messages


def random_exchange(peers, seed, most):
    others = [rank for rank in range(peers.size) if rank != peers.rank]
    for number in range(12):
        # Every rank draws the sizes of all messages.
        sizes = np.random.default_rng([seed, number]).integers(0, most, (peers.size, peers.size, 2)).tolist()
        sends = [(to, content(peers.rank, to, i, sizes[peers.rank][to][i])) for to in others for i in range(2)]
        receives = [(source, np.zeros(sizes[source][peers.rank][i], np.uint8)) for source in others for i in range(2)]
        exchange(peers, sends, receives)
        for n, (source, out) in enumerate(receives):
            assert np.array_equal(out, content(source, peers.rank, n % 2, out.size)), (number, source)
    return peers.shared


@both
def test_random_sizes_both_ways(cluster, shared):
    assert results(start(cluster, random_exchange, shared, seed=1, most=300_000)) == [int(shared)] * 2


@both
def test_random_sizes_between_four(four, shared):
    assert results(start(four, random_exchange, shared, seed=2, most=50_000)) == [3 * int(shared)] * 4


def around(peers, size):
    """All send to the next rank more than what lies between them can hold."""
    to, source = (peers.rank + 1) % peers.size, (peers.rank - 1) % peers.size
    out = np.zeros(size)
    exchange(peers, [(to, np.full(size, peers.rank + 1.0))], [(source, out)])
    return bool((out == source + 1).all()), peers.sent


@both
@pytest.mark.parametrize("ranks", [3, 4])
def test_more_than_buffers_hold_around(four, shared, ranks):
    size = 3 * RING // 8 + 5
    assert results(start(four, around, shared, ranks=ranks, size=size)) == [(True, 8 * size)] * ranks


def test_one_after_the_other(cluster):
    assert results(start(cluster, in_order, True)) == [True, True]
    assert results(start(cluster, in_order, False)) == [True, True]


def in_order(peers):
    other = 1 - peers.rank
    if peers.rank == 0:
        buffer = np.zeros((2, 3), np.int64)
        for number in range(200):
            buffer[:] = number
            exchange(peers, [(other, buffer)], [])  # its memory is used again at once
        return True
    out, seen = np.zeros((2, 3), np.int64), []
    for _ in range(200):
        exchange(peers, [], [(other, out)])
        seen.append(out[1, 2])
    return seen == list(range(200))


def several_under_way(peers, size):
    """Exchanges that are started together, the later ones before the first has ended, and ended in order."""
    other, outs = 1 - peers.rank, [np.zeros(size) for _ in range(3)]
    ends = [
        peers.start([(other, np.full(size, 10.0 * peers.rank + n))], [(other, out)]) for n, out in enumerate(outs)
    ]  # fmt: skip
    found = []
    for end, out in zip(ends, outs, strict=True):
        end()
        found.append(bool((out == 10 * other + len(found)).all()))
        end()  # once more does nothing
    return found


@both
@pytest.mark.parametrize("size", [1, 3 * RING // 8 + 5], ids=["small", "large"])
def test_several_under_way(cluster, shared, size):
    assert results(start(cluster, several_under_way, shared, size=size)) == [[True] * 3] * 2


def in_one_process(peers):
    """Who receives is late: by then the sender has used its memory again."""
    values, seen = np.zeros(1 << 17), []
    for number in range(8):
        if peers.rank == 0:
            values[:] = number
            exchange(peers, [(1, values)], [])
        else:
            sleep(0.02)
            exchange(peers, [], [(0, values)])
            seen.append(values[0])
    return seen


def test_workers_of_one_process_get_copies(tmp_path):
    from clusters import running_cluster

    with running_cluster(tmp_path, processes=False, protocol="inproc") as client:
        assert results(start(client, in_one_process, False)) == [[], list(range(8))]


def soon_forgotten(peers):
    """Nothing holds a message that was taken: of those who exchange long ones, each would hold one for every other."""
    import weakref

    if peers.rank == 1:
        exchange(peers, [], [(0, np.zeros(1 << 20))])
    else:
        values = np.zeros(1 << 20)
        exchange(peers, [(1, values)], [])
        held = weakref.ref(values)
        del values
        sleep(0.2)
        assert held() is None
    exchange(peers, [(1 - peers.rank, np.zeros(1))], [(1 - peers.rank, np.zeros(1))])


def test_a_sender_holds_no_message_that_was_taken(cluster):
    results(start(cluster, soon_forgotten, False))


def test_a_receiver_holds_no_piece_that_was_taken():
    import asyncio
    import weakref
    from threading import Condition

    held, box, out = [], mailbox.Box(Condition()), np.zeros(100, np.uint8)

    class Comm:
        async def read(self):
            if held:
                assert box.take(out, -ring.LENGTH) == ring.LENGTH + out.size
                held.append(held[0]() is None)
                raise OSError
            values = np.ones(100, np.uint8)
            held.append(weakref.ref(values))
            return {"size": values.size, "value": values}

        async def write(self, taken):
            assert taken == 100

        def abort(self):
            pass

    mailbox.boxes["run", 0, 1] = box
    try:
        asyncio.run(mailbox._take_bytes(Comm(), "run", 0, 1))
    finally:
        del mailbox.boxes["run", 0, 1]
    assert out.all()
    assert held[1]


def leaves_at_once(peers):
    """What a rank sent before it left still arrives."""
    if peers.rank == 0:
        for number in range(3):
            exchange(peers, [(1, np.full(400_000, number, np.float32))], [])
        return True
    sleep(0.6)  # longer than ranks take to look whether others are there
    found = np.zeros((3, 400_000), np.float32)
    for out in found:
        exchange(peers, [], [(0, out)])
    return found[:, -1].tolist() == [0, 1, 2]


@both
def test_who_leaves_is_heard_to_the_end(cluster, shared):
    assert results(start(cluster, leaves_at_once, shared)) == [True, True]


# -- mistakes and losses


def wrong_size(peers):
    if peers.rank == 0:
        exchange(peers, [(1, np.zeros(5))], [])
        return
    with pytest.raises(ValueError, match="rank 0 sent 40 bytes to rank 1, which expects 24"):
        exchange(peers, [], [(0, np.zeros(3))])


@both
def test_another_size_is_an_error_that_names_both(cluster, shared):
    results(start(cluster, wrong_size, shared))


def test_a_strided_array_is_refused(cluster):
    def strided(peers):
        with pytest.raises(ValueError, match="contiguous"):
            exchange(peers, [(1 - peers.rank, np.zeros((4, 4))[:, 1])], [])

    results(start(cluster, strided))


def until_lost(peers, sends=False):
    """Wait for rank 0 for ever; returns what the error says."""
    from dasksdnn.errors import PeerLostError

    ready = np.zeros(1)
    for rank in range(peers.size):
        if rank != peers.rank:
            exchange(peers, [(rank, ready)], [])
    if peers.rank == 0:
        sleep(60)
    try:
        while True:
            if sends:
                exchange(peers, [(0, np.zeros(1 << 20))], [])
            else:
                exchange(peers, [], [(0, ready)])
    except PeerLostError as error:
        return str(error)


@both
@pytest.mark.parametrize("sends", [False, True], ids=["receiving", "sending"])
def test_a_killed_worker_ends_the_others(new_cluster, shared, sends):
    client = new_cluster(workers=3)
    processes = pids(client)
    run = uuid4().hex
    futures = start(client, until_lost, shared, run=run, sends=sends)
    until_joined(client, run, 3)
    sleep(1.0)  # by then all wait
    first = sorted(processes)[0]
    os.kill(processes[first], signal.SIGKILL)
    killed = monotonic()
    for future in futures[1:]:
        assert "rank 0 on worker" in future.result(timeout=20)
    assert monotonic() - killed < 5
    futures[0].cancel()


def _count_boxes():
    from dasksdnn.engines.cluster.mailbox import boxes

    return len(boxes)


def _abort(run):
    from dasksdnn.engines.cluster.mailbox import abort

    abort(run)


def told_to_end(peers):
    from dasksdnn.errors import PeerLostError

    try:
        exchange(peers, [], [(1 - peers.rank, np.zeros(1))])
    except PeerLostError as error:
        return str(error)


@both
def test_a_run_is_told_to_end_and_another_one_works(cluster, shared):
    run = uuid4().hex
    futures = start(cluster, told_to_end, shared, run=run)
    until_joined(cluster, run, 2)
    cluster.run(_abort, run)
    assert all("told to end" in text for text in results(futures, 10))
    assert results(start(cluster, around, shared, size=1000)) == [(True, 8000)] * 2


def last_word(peers, size):
    """Rank 0 is slow to see that its message was taken, and looks first whether the other is still there."""
    if peers.rank == 1:
        sleep(0.3)
        exchange(peers, [], [(0, np.zeros(size, np.uint8))])
        return
    finish, move = peers.start([(1, np.zeros(size, np.uint8))], []), peers._move

    def slow():
        sleep(1.0)
        return move()

    peers._move = slow
    finish()


def test_who_was_heard_to_the_end_does_not_mind_that_the_other_left(cluster):
    results(start(cluster, last_word, False, size=3 * mailbox.PIECE))


def early(peers):
    if peers.rank == 0:
        return "left"
    from dasksdnn.errors import PeerLostError

    try:
        exchange(peers, [], [(0, np.zeros(1))])
    except PeerLostError as error:
        return str(error)


@both
def test_who_waits_for_a_rank_that_left_is_told(cluster, shared):
    left, told = results(start(cluster, early, shared), 20)
    assert left == "left"
    assert "rank 0 on worker" in told
    assert "has left the run" in told


def _cut_off():
    """No comm of this worker's own reaches another one any more, but Dask's still do."""
    import distributed.comm

    async def connect(*_, **__):
        raise OSError("no route")

    distributed.comm.connect = connect


def test_who_cannot_send_ends_those_who_wait_for_it(new_cluster):
    client = new_cluster(workers=2)
    client.run(_cut_off, workers=[min(client.scheduler_info(n_workers=-1)["workers"])])
    assert all("has left the run" in text for text in results(start(client, told_to_end, False), 20))


def sends_in_vain(peers):
    from dasksdnn.errors import PeerLostError

    with pytest.raises(PeerLostError, match="has left the run"):
        exchange(peers, [(1 - peers.rank, np.zeros(1))], [(1 - peers.rank, np.zeros(1))])


def test_why_nothing_can_be_sent_is_logged(tmp_path, monkeypatch, caplog):
    from clusters import running_cluster

    def fail(_):
        raise TypeError("no frames of this")

    with running_cluster(tmp_path, processes=False) as client:
        monkeypatch.setattr("distributed.protocol.to_serialize", fail)
        results(start(client, sends_in_vain, False), 20)
    assert "no frames of this" in caplog.text


def test_a_strange_descriptor_is_not_taken_for_a_ring():
    from dasksdnn.engines.cluster.peers import _Made, _map

    made = _Made(64)
    reading, writing = os.pipe()
    try:
        process, descriptor, token, nbytes = made.where
        assert _map(made.where) is not None
        assert _map((process, descriptor, bytes(16), nbytes)) is None
        assert _map((process, descriptor, token, nbytes + 1)) is None
        assert _map((process, reading, token, nbytes)) is None
        assert _map((process, 999_999, token, nbytes)) is None
    finally:
        made.close()
        os.close(reading)
        os.close(writing)


def _files_and_threads():
    import gc
    import threading

    gc.collect()
    rings = sum("dasksdnn" in text for text in _links())
    return rings, len(_links()), sum("sdnn" in thread.name for thread in threading.enumerate())


def _links():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found


def test_nothing_is_left(cluster):
    for shared in (True, False):
        results(start(cluster, around, shared, size=100))  # connections between workers are made, and kept by Dask
    before = cluster.run(_files_and_threads)
    for _ in range(5):
        for shared in (True, False):
            results(start(cluster, around, shared, size=100))
            results(start(cluster, early, shared))
    until(lambda: cluster.run(_count_boxes) == dict.fromkeys(before, 0))
    for worker, (rings, files, threads) in cluster.run(_files_and_threads).items():
        assert rings == 0
        assert files <= before[worker][1] + 2  # a comm more or less of Dask's own
        assert threads == before[worker][2]
    assert mailbox.boxes == {}


def test_who_was_not_attended_by_anyone_is_told(cluster, monkeypatch):
    def alone():
        from distributed import get_worker

        from dasksdnn.engines.cluster import peers
        from dasksdnn.errors import PeerLostError

        peers.JOINING, before = 0.5, peers.JOINING
        try:
            worker = get_worker().address
            other = next(a for a in addresses if a != worker)
            peers.join(run, 0, [worker, other])
        except PeerLostError as error:
            return str(error)
        finally:
            peers.JOINING = before

    cluster.run(_attend)
    run, addresses = uuid4().hex, list(cluster.scheduler_info(n_workers=-1)["workers"])
    told = cluster.submit(alone, pure=False).result(timeout=20)
    assert "rank 1 on worker" in told
    assert "did not join the run" in told
