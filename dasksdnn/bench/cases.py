"""The table of work of `bench kernels`: patterns and sizes, as many layers as make a run of a few to some hundred milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.sparse

from dasksdnn.bench.training import Training, clear_samples
from dasksdnn.bench.work import Backward, Forward, Parts, Width1, Work
from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.partition.order import neuron_order
from dasksdnn.partition.partition import partition
from dasksdnn.sources.generators import community, radixnet, random_network
from dasksdnn.training.initial import initialise

NAMES = ("radixnet", "constant", "random", "community", "backward", "training", "width1", "parts")
NEURONS = (1024, 4096, 16384, 65536)
#: Bytes of weights that a width-1 run reads, at six an edge: far more than caches hold.
FAR = 256 << 20
#: The run through a whole engine: at 1,024 neurons the challenge's depth and 64 panels, fewer where layers are wider.
PARTS, PARTS_LAYERS, PARTS_PANELS = 8, 120, 64
#: A network that is trained has so many layers at 1,024 neurons, fewer where they are wider.
TRAINED_LAYERS = 12
#: Shares of weights that are not there, at which dense weights without a mask take part, too.
SPARSITIES = (0.95, 0.98, 0.99)
#: Learning rate at which a step changes the weights by far more than rounding does.
LR = 0.01


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table.

    Attributes
    ----------
    name : str
        One of `NAMES`.
    title : str
        With the pattern and the number of neurons.
    neurons : int
    make : callable
        Makes the work; called when it is its turn.
    """

    name: str
    title: str
    neurons: int
    make: Callable[[], Work]


def depth(neurons: int) -> int:
    """Consecutive layers of a run: 48 at 1,024 neurons, 3 at 65,536."""
    return max(3, min(48, 65536 // neurons))


def cases(only: Sequence[str], neurons: Sequence[int], samples: int, far: int | None = None) -> list[Case]:
    """Choose from the table.

    Parameters
    ----------
    only : sequence of str
        From `NAMES`.
    neurons : sequence of int
        Of every layer. `community` is run at the largest, `training` and `parts` at the smallest.
    samples : int
        Width of the panels.
    far : int, optional
        Bytes of weights of a width-1 run; by default `FAR`.

    Raises
    ------
    InputError
        A name is unknown, or a number is not usable.
    """
    for name in only:
        if name not in NAMES:
            raise InputError(f"only: {name!r} is not a case; use some of {','.join(NAMES)}")
    if samples < 1:
        raise InputError(f"samples is {samples}: it must be at least 1")
    for n in neurons:
        radixnet(n, 1)  # says what is wrong with a number before any work is done
    bytes_ = FAR if far is None else far
    return [case for name in only for case in _CASES[name](sorted(set(neurons)), samples, bytes_)]


def _radixnet(neurons: int, layers: int) -> tuple[Layer, ...]:
    return _relu(radixnet(neurons, layers, weights="random", bias=0.0))


def _random(neurons: int, layers: int) -> tuple[Layer, ...]:
    return tuple(random_network(neurons, layers, degree=min(32, neurons)))


def _relu(net: Network) -> tuple[Layer, ...]:
    return tuple(replace(layer, activation=Activation("relu")) for layer in net)


def _input(neurons: int, samples: int) -> Array:
    """Dense and positive."""
    return np.random.default_rng(0).random((neurons, samples), np.float32)


_PATTERNS = {"radixnet": _radixnet, "random": _random}


def _forward(layers: Callable[[int, int], Iterable[Layer]], neurons: int, samples: int) -> Forward:
    return Forward(tuple(layers(neurons, depth(neurons))), _input(neurons, samples))


def _pattern(name: str, sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    return [Case(name, f"{name}, {n:,} neurons", n, partial(_forward, _PATTERNS[name], n, samples)) for n in sizes]


def _constant(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    """The challenge's own weights, bias and bound."""
    return [
        Case("constant", f"radixnet with constant weights, {n:,} neurons", n, partial(_forward, radixnet, n, samples))
        for n in sizes
    ]


def _community(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    n = sizes[-1]
    return [Case("community", f"community, shuffled, {n:,} neurons", n, partial(_forward, community, n, samples))]


def _backward(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    def make(pattern: str, n: int) -> Backward:
        layers = _PATTERNS[pattern](n, max(3, depth(n) // 4))
        delta = np.random.default_rng(1).standard_normal((n, samples), np.float32)
        return Backward(layers, _input(n, samples), delta)

    return _each("backward", "backward", sizes, make)


def _training(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    n = sizes[0]
    layers = max(3, min(TRAINED_LAYERS, TRAINED_LAYERS * 1024 // n))

    def title(pattern: str) -> str:
        return f"training step, {pattern}, {n:,} neurons x {layers} layers"

    def made(pattern: str, net: Network, crossover: bool = False) -> Case:
        return Case("training", title(pattern), n, partial(_trained, net, samples, crossover))

    degrees = {sparsity: max(1, round((1 - sparsity) * n)) for sparsity in SPARSITIES}
    return [
        made("radixnet", radixnet(n, layers)),
        made("random", random_network(n, layers, degree=min(32, n))),
        *(
            made(f"random, {sparsity:.0%} sparse", random_network(n, layers, degree=degree), crossover=True)
            for sparsity, degree in degrees.items()
        ),
    ]


def _trained(net: Network, samples: int, crossover: bool) -> Training:
    """Fresh weights on the pattern; values are to be learnt, so the last layer has no bound."""
    *hidden, last = initialise(Network.from_layers(_relu(net)))
    layers = (*hidden, replace(last, activation=Activation("identity")))
    t = np.random.default_rng(1).standard_normal((net.widths[-1], samples), np.float32)
    return Training(layers, clear_samples(layers, samples), t, LR, crossover)


def _width1(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    """Layers below one another until no cache holds them, rows and columns in the order in which a store has them."""

    def make(pattern: str, n: int) -> Width1:
        made = [layer.weights for layer in _PATTERNS[pattern](n, 4)]
        orders = [neuron_order(weights, np.arange(n)) for weights in made]
        some = [after[rows][:, columns] for after, rows, columns in zip(made[1:], orders[1:], orders[:-1], strict=True)]
        count = max(3, -(-far // (6 * some[0].nnz)))
        tall = scipy.sparse.vstack([some[k % len(some)] for k in range(count)], format="csr")
        return Width1(Layer(tall, np.zeros(tall.shape[0]), Activation("relu")), _input(n, 1)[:, 0])

    return _each("width1", "one sample", sizes, make)


def _each(name: str, label: str, sizes: Sequence[int], make: Callable[[str, int], Work]) -> list[Case]:
    return [Case(name, f"{label}, {p}, {n:,} neurons", n, partial(make, p, n)) for p in _PATTERNS for n in sizes]


def _parts(sizes: Sequence[int], samples: int, far: int) -> list[Case]:
    n = sizes[0]

    def make() -> Parts:
        layers, panels = (max(4, min(most, most * 1024 // n)) for most in (PARTS_LAYERS, PARTS_PANELS))
        net = Network.from_layers(_radixnet(n, layers))
        return Parts(tuple(net), _input(n, samples * panels), partition(net, PARTS))

    return [Case("parts", f"local engine, radixnet, {n:,} neurons", n, make)]


_CASES: dict[str, Callable[[Sequence[int], int, int], list[Case]]] = {
    "radixnet": partial(_pattern, "radixnet"),
    "constant": _constant,
    "random": partial(_pattern, "random"),
    "community": _community,
    "backward": _backward,
    "training": _training,
    "width1": _width1,
    "parts": _parts,
}
