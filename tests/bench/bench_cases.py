"""Small pieces of work, and which of them each library does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dasksdnn.bench import cases
from dasksdnn.bench.peers import PEERS
from dasksdnn.bench.work import Challenge, Forward, Parts
from dasksdnn.partition.partition import partition
from dasksdnn.sources.generators import radixnet
from dasksdnn.sources.images import digits

#: Name in the registry and kind of work, for everything that anyone does.
JOBS = [(name, kind) for name, peer in PEERS.items() for kind in peer.rows]
#: A case of each kind.
KINDS = {"forward": "random", "backward": "backward", "training": "training", "width1": "width1"}


def make(kind, samples=80, neurons=64):
    """Layers with a bias in the forward case, which the table of work has for the challenge's weights only."""
    if kind == "challenge":
        return Challenge(radixnet(64, 8), digits(8)[:300])
    if kind == "parts":
        x = np.random.default_rng(0).random((neurons, 2 * samples), np.float32)
        net = radixnet(neurons, 6, weights="random", bias=0.0)
        return Parts(tuple(net), x, partition(net, 3, method="block"))
    work = cases.cases([KINDS[kind]], [neurons], samples, far=1 << 16)[-1].make()
    if kind == "forward":
        biased = [replace(layer, bias=np.full_like(layer.bias, -0.1)) for layer in work.layers[:5]]
        work = Forward((*biased, *radixnet(neurons, 2, bias=0.0)), work.x)
    return work
