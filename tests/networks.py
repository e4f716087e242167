"""Small random networks, inputs and partitions for tests: odd widths, empty rows and columns, every activation."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from dasksdnn.network import Activation, Layer, Network
from dasksdnn.partition.partition import Partition

ACTIVATIONS = ("relu", "clip:2", "leaky_relu:0.1", "sigmoid", "tanh", "identity")


def random_net(seed, *, layers=None, widest=60, dtype="float32", dying=0.5):
    """A random chain; about a share `dying` of its layers map zero to zero."""
    rng = np.random.default_rng(seed)
    layers = int(layers or rng.integers(1, 9))
    widths = rng.integers(1, widest, layers + 1)
    made = []
    for k in range(layers):
        weights = scipy.sparse.random_array(
            (widths[k + 1], widths[k]), density=rng.random() * 0.4, rng=rng, dtype=np.dtype(dtype)
        ).tocsr()
        weights.data -= np.dtype(dtype).type(0.5 * rng.random())
        quiet = rng.random() < dying
        bias = np.zeros(widths[k + 1]) if quiet else rng.normal(size=widths[k + 1]) - 3 * rng.random()
        activation = "relu" if quiet or rng.random() < 0.5 else str(rng.choice(ACTIVATIONS))
        made.append(Layer(weights, bias.astype(dtype), Activation.parse(activation)))
    return Network.from_layers(made, f"random-{seed}")


def random_input(seed, samples, features, dtype="float32", alive=0.5):
    """Dense samples, of which a share is zero throughout."""
    rng = np.random.default_rng([seed, 1])
    x = rng.random((samples, features)) * (rng.random((samples, 1)) < alive) * (rng.random((samples, features)) < 0.6)
    return x.astype(dtype)


def random_partition(net, nparts, seed=0):
    """Any owners at all: empty parts, uneven loads."""
    rng = np.random.default_rng([seed, 2])
    return Partition.from_owner(net, [rng.integers(0, nparts, n) for n in net.widths], nparts)
