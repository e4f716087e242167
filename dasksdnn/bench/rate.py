"""How many multiply-adds a second one core of this machine does on a given network: what a model of a step starts from."""

from __future__ import annotations

import numpy as np

from dasksdnn.bench import ours
from dasksdnn.bench.contender import Contender, Crew
from dasksdnn.bench.timing import interleave
from dasksdnn.bench.work import Forward, Width1
from dasksdnn.errors import InputError
from dasksdnn.network import Array, Layer, Network

#: Layers that are run, fewer where they hold more nonzeros: a part's share of a network is small enough for caches, too.
LAYERS, NONZEROS = 8, 4_000_000
#: Rounds, of which the median counts.
REPEATS = 5


def kernel_rate(net: Network, batch: int) -> float:
    """Multiply-adds a second of one thread, forward, through the first layers of a network.

    Parameters
    ----------
    net : Network
        Its first layers, at most `LAYERS` of them and at least one, are held in memory.
    batch : int
        Samples; one alone takes the kernel for one sample.

    Raises
    ------
    InputError
        If the batch has no sample, or the layers have no nonzeros.
    """
    if batch < 1:
        raise InputError(f"batch {batch} is too small: give at least 1")
    layers = _first_layers(net)
    edges = sum(layer.edges for layer in layers)
    if not edges:
        raise InputError(f"{net.name}: its first {len(layers)} layers have no nonzeros, so no rate can be measured")
    with Crew(1) as crew:
        contender = _one_sample(layers, crew) if batch == 1 else _panel(layers, batch, crew)
        contender.ready()
        contender.run()
        (timing,) = interleave([contender], REPEATS)
    return edges * batch / timing.median


def _first_layers(net: Network) -> list[Layer]:
    held = [net[0]]
    while len(held) < min(LAYERS, len(net)) and sum(layer.edges for layer in held) < NONZEROS:
        held.append(net[len(held)])
    return held


def _one_sample(layers: list[Layer], crew: Crew) -> Contender:
    """All layers in turn, so that no layer's weights wait in the nearest cache."""
    each = [ours.width1(Width1(layer, _ones(layer, 1).ravel()), crew)[0] for layer in layers]
    return Contender("one sample", 1, lambda: [layer.run() for layer in each], lambda _: [])


def _panel(layers: list[Layer], batch: int, crew: Crew) -> Contender:
    return ours.forward(Forward(tuple(layers), _ones(layers[0], batch)), crew)[0]


def _ones(layer: Layer, samples: int) -> Array:
    return np.ones((layer.weights.shape[1], samples), layer.weights.dtype)
