"""Random networks and plain oracles that the tests of partition/ share."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import scipy.sparse
from hypothesis import strategies as st

from dasksdnn.network import Layer, Network

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "graphchallenge"


def network(patterns, dtype=np.float32):
    """A network of 0/1 arrays, one for each layer."""
    layers = [scipy.sparse.csr_array(np.asarray(p, dtype)) for p in patterns]
    return Network.from_layers([Layer(w, np.zeros(w.shape[0])) for w in layers])


def random_pattern(rng, rows, columns, density):
    return rng.random((rows, columns)) < density


@st.composite
def patterns(draw, most_layers=3, widest=12):
    """Patterns of a few small layers, empty rows, columns and layers included, and rows that repeat."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths = draw(st.lists(st.integers(1, widest), min_size=2, max_size=most_layers + 1))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]))
    layers = []
    for columns, rows in itertools.pairwise(widths):
        distinct = random_pattern(rng, draw(st.integers(1, rows)), columns, density)
        layers.append(distinct[rng.integers(0, len(distinct), rows)])
    return layers


def heaviest_first(nonzeros, nparts):
    """The heaviest part when rows are packed heaviest first: what whole rows permit, as far as is easily known."""
    load = [0] * nparts
    for weight in sorted(nonzeros, reverse=True):
        load[load.index(min(load))] += int(weight)
    return max(load)


def brute_force(layers, owner, nparts):
    """Volume per layer, messages per layer, words [sender][receiver] and imbalance per layer, one neuron at a time."""
    volume, messages, imbalance = [], [], []
    send = [[0] * nparts for _ in range(nparts)]
    for k, pattern in enumerate(layers):
        words, pairs = 0, set()
        for j in range(pattern.shape[1]):
            sender = int(owner[k][j])
            receivers = {int(owner[k + 1][i]) for i in range(pattern.shape[0]) if pattern[i, j]} - {sender}
            words += len(receivers)
            for receiver in receivers:
                pairs.add((sender, receiver))
                send[sender][receiver] += 1
        load = [0] * nparts
        for i in range(pattern.shape[0]):
            load[int(owner[k + 1][i])] += int(pattern[i].sum())
        volume.append(words)
        messages.append(len(pairs))
        imbalance.append(max(load) * nparts / sum(load) if sum(load) else 1.0)
    return volume, messages, send, imbalance


def busiest(layers, owner, nparts):
    """For each layer: most words that a part sends, most messages of a part, most nonzeros of a part."""
    words, messages, nonzeros = [], [], []
    for k, pattern in enumerate(layers):
        sent = {p: [] for p in range(nparts)}
        for j in range(pattern.shape[1]):
            sender = int(owner[k][j])
            sent[sender] += {int(owner[k + 1][i]) for i in range(pattern.shape[0]) if pattern[i, j]} - {sender}
        words.append(max(len(receivers) for receivers in sent.values()))
        messages.append(max(len(set(receivers)) for receivers in sent.values()))
        nonzeros.append(max(int(pattern[owner[k + 1] == p].sum()) for p in range(nparts)))
    return words, messages, nonzeros


def published(layers):
    """The first layers of the Graph Challenge network 1024."""
    held = []
    for k in range(1, layers + 1):
        with gzip.open(PUBLISHED / f"n1024-l{k}.tsv.gz") as lines:
            source, target, value = np.loadtxt(lines).T
        coordinates = (target.astype(int) - 1, source.astype(int) - 1)
        weights = scipy.sparse.coo_array((value.astype(np.float32), coordinates), shape=(1024, 1024))
        held.append(Layer(weights, np.zeros(1024)))
    return Network.from_layers(held)
