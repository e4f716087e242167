"""What examples/mpi.py is run on, and what has to come of it: the local engine's results, by ranks that share the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import zarr

import dasksdnn as sdnn
from dasksdnn.sources.images import digit_labels, digits

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Momentum: Adam's first steps are signs, which rounding turns where gradients are next to nothing.
WANTED = {"epochs": 3, "batch_size": 64, "optimizer": "momentum", "lr": 0.01}


class Example:
    """A network in two parts, and a copy for the local engine; real handwritten digits, and which they are."""

    def __init__(self, folder):
        self.x, self.classes = digits(side=16).toarray(), digit_labels()
        np.save(folder / "x.npy", self.x)
        np.save(folder / "classes.npy", self.classes)
        net = sdnn.random_sparse([256, 192, 128, 10], [0.1, 0.1, 1.0], seed=5)
        self.store = sdnn.save(net, folder / "net.zarr", partition=sdnn.partition(net, nparts=2, effort="fast"))
        self.alone = sdnn.open_store(shutil.copytree(self.store.path, folder / "alone.zarr"))
        self.out = folder / "y.zarr"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in WANTED.items()]
        places = [self.store.path, folder / "x.npy", self.out, folder / "classes.npy"]
        self.arguments = [*map(str, places), *flags]

    def check(self, said, nodes=()):
        """Compare what two ranks said and wrote with the local engine's, and what each sent with what the partition names."""
        lines = said.splitlines()
        (world,) = (line for line in lines if " ranks, on " in line)  # one world, and one rank that tells
        assert world.startswith("2 ranks, on ")
        if nodes:
            assert world.endswith(f" on {', '.join(nodes)}")

        expected = np.empty((len(self.x), 10), np.float32)
        result = sdnn.infer(self.alone, self.x, out=expected)
        assert result.categories.size == len(self.x)  # none dies on the way: each has all words sent
        np.testing.assert_array_equal(zarr.open_array(self.out, mode="r")[:], expected)
        sent = sum(layer.sent().sum(axis=1) for layer in self.store.comm_plan().layers[1:]) * len(self.x)
        assert all(sent)
        (heading,) = (n for n, line in enumerate(lines) if line.split()[:2] == ["rank", "sent"])
        told = [line.split()[:2] for line in lines[heading + 1 : heading + 3]]
        assert told == [[str(rank), f"{4 * words / 1e6:.2f}"] for rank, words in enumerate(sent)]

        history = sdnn.train(self.alone, self.x, self.classes, **WANTED)
        assert history.epochs[-1].accuracy > 0.6
        assert f"<dasksdnn.History: {WANTED['epochs']} epochs>" in lines
        trained, right = (sdnn.open_store(store.path) for store in (self.store, self.alone))
        assert trained.generation > self.store.generation
        for ours, theirs in zip(trained.network, right.network, strict=True):
            np.testing.assert_allclose(ours.weights.data, theirs.weights.data, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(ours.bias, theirs.bias, rtol=1e-3, atol=1e-5)
