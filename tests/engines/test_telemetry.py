"""What runs on a cluster tell whoever watches: as much as was counted, seldom, and nothing where nobody does."""

from __future__ import annotations

from time import monotonic

import numpy as np
import pytest
from clusters import Slow, until

import dasksdnn as sdnn
from dasksdnn.engines.cluster.streaming import Batch
from dasksdnn.engines.cluster.telemetry import INTERVAL, LAYERS, TOPIC, WATCHED, Counters, Flights
from dasksdnn.kernels.routes import COMPUTING, COUNTED, WAITING
from dasksdnn.plan.comm import words_between

SAMPLES = 300


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A network in four parts in which no sample dies, and samples."""
    net = sdnn.radixnet(neurons=64, layers=6, bias=0.0)
    store = sdnn.save(
        net, tmp_path_factory.mktemp("told") / "net.zarr", partition=sdnn.partition(net, 4, method="block")
    )
    return store, np.random.default_rng(0).random((SAMPLES, 64)).astype(np.float32) + 0.1


@pytest.fixture
def watched(cluster):
    cluster.set_metadata([WATCHED], True)
    yield cluster
    cluster.set_metadata([WATCHED], False)


def told(client, run):
    """Messages of what is run, once all workers have told all; by kind."""
    before = len(client.get_events(TOPIC))
    began = monotonic()
    run()
    seconds = monotonic() - began
    until(lambda: "end" in [m["kind"] for _, m in client.get_events(TOPIC)[before:]])
    until(lambda: not any(client.run(_is_telling).values()))
    found = {}
    for _, message in client.get_events(TOPIC)[before:]:
        found.setdefault(message["kind"], []).append(message)
    assert len({m["run"] for messages in found.values() for m in messages}) == 1
    assert len(found["counts"]) <= 2 * (seconds / INTERVAL + 3)
    return found


def _is_telling():
    from dasksdnn.engines.cluster import telemetry

    return bool(telemetry._sources)


def test_nothing_is_sent_where_nobody_watches(cluster, stored):
    store, x = stored
    before = len(cluster.get_events(TOPIC))
    sdnn.infer(store, x, out="categories", client=cluster, strategy="parts")
    sdnn.infer(store, x, out="categories", client=cluster, strategy="samples")
    assert len(cluster.get_events(TOPIC)) == before
    assert not any(cluster.run(_is_telling).values())


def test_parts_tell_what_they_send(watched, stored, tmp_path):
    store, x = stored
    found = told(
        watched,
        lambda: sdnn.infer(store, Slow(x, tmp_path), out="categories", client=watched, strategy="parts", batch=100),
    )
    (crew,) = found["crew"]
    words = np.array(crew["words"])
    to = [owner for part in range(4) for owner, parts in enumerate(crew["parts"]) if part in parts]
    assert np.array_equal(words, words_between(store.comm_plan().coarsen(to)))
    assert words.sum() > 0
    assert sum(crew["edges"]) == store.edges
    sent = np.zeros((2, 2), np.int64)
    for message in found["counts"]:
        sent[message["owner"]] += message["sent"]
    assert np.array_equal(sent, words * SAMPLES)
    computing = {m["worker"]: 0 for m in found["counts"]}
    for message in found["counts"]:
        computing[message["worker"]] += sum(took[0] for took in message["took"])
        assert 0 < message["resident"] <= message["budget"]
    assert set(computing) == set(crew["addresses"])
    assert all(computing.values())
    assert found["batches"][-1]["done"] == found["batches"][-1]["begun"] == SAMPLES
    assert found["end"][0]["ended"] == "done"


def test_samples_tell_what_they_take_and_read(watched, stored, tmp_path):
    store, x = stored
    watched.restart()  # no worker holds the weights
    watched.set_metadata([WATCHED], True)
    slow = Slow(x, tmp_path, seconds=0.15)
    found = told(
        watched, lambda: sdnn.infer(store, slow, out="categories", client=watched, strategy="samples", batch=50)
    )
    assert "crew" not in found
    took = [sum(t[0] for t in m["took"]) for m in found["counts"]]
    assert sum(took) > 0
    # Structure and state of all parts, once by each worker that had a batch.
    read = {m["worker"]: 0 for m in found["counts"]}
    for message in found["counts"]:
        read[message["worker"]] += message["read"]
    assert all(n >= store.edges * (4 + 2) for n in read.values())
    assert max(m["flying"] for m in found["batches"]) > 1


def test_training_tells_how_well_it_learns(watched, tmp_path):
    net = sdnn.random_sparse([16, 32, 4], 0.5)
    store = sdnn.save(net, tmp_path / "net.zarr", partition=sdnn.partition(net, 2, method="block"))
    x = np.random.default_rng(0).random((200, 16)).astype(np.float32)
    y = x[:, :4].argmax(axis=1)
    histories = []

    def train():
        histories.append(
            sdnn.train(
                store, x, y, epochs=3, batch_size=20, client=watched, strategy="parts", validation=(x[:50], y[:50])
            )
        )

    found = told(watched, train)
    (history,) = histories
    (end,) = found["end"]
    assert [e["loss"] for e in end["epochs"]] == [e.loss for e in history.epochs]
    assert [e["validation_accuracy"] for e in end["epochs"]] == [e.validation_accuracy for e in history.epochs]
    assert all(0 < m["epoch"] <= 3 and m["loss"] > 0 and 0 <= m["accuracy"] <= 1 for m in found["learned"])
    (run,) = found["run"]
    assert (run["samples"], run["validation"], run["layers"]) == (600, 50, 2)
    words = np.array(found["crew"][0]["words"])
    sent = np.zeros((2, 2), np.int64)
    for message in found["counts"]:
        sent[message["owner"]] += message["sent"]
    # Forward and back for each sample, and forward for those of validation.
    assert np.array_equal(sent, 600 * (words + words.T) + 150 * words)
    assert sent.sum() == sum(e.volume for e in history.epochs)


def test_a_deep_network_tells_of_neighbours_together():
    tally = np.zeros((2, 201, COUNTED), np.int64)
    tally[0, :200, COMPUTING] = 5_000
    tally[1, 199, WAITING] = 7_000
    layers, took = Counters(tally, np.zeros(0, np.int64)).layers()
    assert len(layers) <= LAYERS
    assert np.sum(took, axis=0).tolist() == [1000, 7, 0]
    assert layers[:2] == [0, 4]


def test_batches_are_told_of_now_and_then_and_at_the_end():
    class Log:
        def __init__(self):
            self.said = []

        def log_event(self, topic, message):
            self.said.append(message)

    log = Log()
    flights = Flights(log, "run", 1000)
    batches = [Batch(i, i + 10) for i in range(0, 1000, 10)]
    for before, batch in zip([None, *batches], batches, strict=False):
        flights.submitted(batch)
        flights.submitted(batch)  # lost, and again
        if before is not None:
            flights.collected(before)
    flights.collected(batches[-1])
    assert len(log.said) <= 3
    assert (log.said[0]["flying"], log.said[0]["begun"]) == (1, 10)
    assert (log.said[-1]["flying"], log.said[-1]["done"]) == (0, 1000)
