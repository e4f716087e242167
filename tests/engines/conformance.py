"""What every engine must do: subclass `InferenceConformance`, give it `run`, and it gets the same tests as all others."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from networks import random_input, random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.kernels import reference
from dasksdnn.network import Activation, Layer, Network


def close(dtype):
    return {"rtol": 1e-4, "atol": 1e-5} if np.dtype(dtype) == np.float32 else {"rtol": 1e-11, "atol": 1e-12}


#: Networks by their seeds, which decide on parts and on the kind of samples, too: every kind with either precision.
CASES = [(seed, ("float32", "float64")[seed // 2 % 2]) for seed in range(12)]


class InferenceConformance:
    """Tests of inference; an engine's `run(store, x, memory=None)` returns outputs (samples, outputs) and categories."""

    @pytest.mark.parametrize(("seed", "dtype"), CASES)
    def test_random_networks_equal_the_reference(self, kept, seed, dtype):
        net = random_net(seed, dtype=dtype)
        x = random_input(seed, 37 * seed % 230, net.widths[0], dtype)
        right = reference.infer(net, x)
        nparts = 1 + seed % 5
        parts = random_partition(net, nparts, seed)
        store = kept(f"{seed}-{dtype}", lambda path: sdnn.save(net, path, partition=parts, window=2000))
        y, categories = self.run(store, scipy.sparse.csr_array(x) if seed % 2 else x)
        np.testing.assert_allclose(y, right, **close(dtype))
        np.testing.assert_array_equal(categories, np.flatnonzero(y.any(axis=1)))

    @pytest.mark.parametrize("samples", [0, 1, 15, 16, 17, 300])
    def test_any_number_of_samples(self, kept, samples):
        net = random_net(3, layers=4)
        x = random_input(3, samples, net.widths[0], alive=1.0)
        y, _ = self.run(kept("whole", lambda path: sdnn.save(net, path)), x)
        np.testing.assert_allclose(y, reference.infer(net, x), **close("float32"))

    def test_parts_agree_to_rounding(self, kept):
        net = sdnn.radixnet(neurons=256, layers=9, weights="random", bias=-0.1)
        x = random_input(5, 200, 256)
        outputs = []
        for nparts in (1, 2, 13):
            parts = sdnn.partition(net, nparts, method="random")
            store = kept(f"radixnet-{nparts}", lambda path, parts=parts: sdnn.save(net, path, partition=parts))
            outputs.append(self.run(store, x)[0])
        for y in outputs[1:]:
            np.testing.assert_allclose(y, outputs[0], **close("float32"))

    def test_dead_samples_with_a_fate_that_is_not_zero(self, kept):
        """A layer kills everything, the next brings it back by its bias: at several depths, and for several batches."""
        x = random_input(7, 500, 6)
        layers = []
        for k in range(9):
            weights = scipy.sparse.csr_array(np.roll(np.eye(6, dtype=np.float32), k, axis=0))
            bias = np.full(6, [-0.5, 0.25, -0.7][k % 3], np.float32)
            layers.append(Layer(weights, bias, Activation("relu")))
        net = Network.from_layers(layers)
        y, categories = self.run(kept("dead", lambda path: sdnn.save(net, path, partition=random_partition(net, 3))), x)
        right = reference.infer(net, x)
        np.testing.assert_allclose(y, right, **close("float32"))
        np.testing.assert_array_equal(categories, np.flatnonzero(right.any(axis=1)))

    def test_the_published_fixture(self, published, published_in_eight):
        dataset = sdnn.open_dataset(published / "sparse-images-1024_first1200.tsv.gz", features=1024)
        try:
            _, categories = self.run(published_in_eight, dataset)
        finally:
            dataset.close()
        right = np.loadtxt(published / "neuron1024-categories_first1200.tsv", dtype=np.int64)
        np.testing.assert_array_equal(categories + 1, right)
