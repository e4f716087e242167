"""First weights: their moments by row, the same for every partition, and networks of given widths and densities."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_net, random_partition

import dasksdnn as sdnn
from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.store.checkpoints import generations
from dasksdnn.training.initial import dealt_columns, draw_anew, initialise, normal_at, random_sparse


def uneven(activation="relu", dtype="float32"):
    """A network of one layer whose rows hold 1 to 200 weights, half of them stored zeros, and whose columns differ, too."""
    rng = np.random.default_rng(0)
    share = np.geomspace(0.005, 1, 400)[:, None] * np.linspace(0.2, 1, 200)
    mask = rng.random((400, 200)) < share
    weights = scipy.sparse.csr_array(mask.astype(dtype))
    weights.data[::2] = 0
    return Network.from_layers([Layer(weights, np.ones(400), Activation.parse(activation))])


def degrees(weights):
    """Entries of the row, and of the column, of each entry."""
    rows, columns = np.diff(weights.indptr), np.bincount(weights.indices, minlength=weights.shape[1])
    return np.repeat(rows, rows), columns[weights.indices]


def assert_standard(values):
    """Mean 0, variance 1, kurtosis 3, within four standard errors."""
    n = values.size
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("activation", "scheme", "gain"),
    [
        ("relu", "he", 2.0),
        ("clip:2", "he", 2.0),
        ("tanh", "he", 2.0),
        ("leaky_relu:0.5", "he", 2 / 1.25),
        ("relu", "glorot", None),
        ("leaky_relu:0.5", "glorot", None),
    ],
)
def test_moments_go_by_the_row(activation, scheme, gain, dtype):
    net = uneven(activation, dtype)
    layer = initialise(net, scheme, seed=3)[0]
    assert layer.weights.dtype == layer.bias.dtype == dtype
    assert not layer.bias.any()
    assert layer.activation == Activation.parse(activation)
    n, m = degrees(layer.weights)
    standard = layer.weights.data.astype(float) / np.sqrt(gain / n if gain else 2 / (n + m))
    for some in (n < 20, (n >= 20) & (n < 80), n >= 80, m < 60, m >= 60):
        assert_standard(standard[some])


def test_the_pattern_stays_and_zeros_are_drawn_too():
    net = uneven()
    drawn = initialise(net)[0].weights
    np.testing.assert_array_equal(drawn.indptr, net[0].weights.indptr)
    np.testing.assert_array_equal(drawn.indices, net[0].weights.indices)
    assert drawn.data.all()
    assert (net[0].weights.data[::2] == 0).all()  # the network that was given is as it was


def data(net):
    return [layer.weights.data for layer in net]


def test_a_seed_gives_the_same_bits_and_layers_differ():
    net = random_net(1, layers=4, widest=50)
    first, again, other = (data(initialise(net, seed=seed)) for seed in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    same = Network.from_layers([uneven()[0], Layer(uneven()[0].weights.T.tocsr(), np.zeros(200))])
    a, b = (layer.weights.data[:50] for layer in initialise(same, "glorot"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.5


def test_float64_has_the_same_draws():
    single, double = (initialise(uneven(dtype=kind))[0].weights.data for kind in ("float32", "float64"))
    np.testing.assert_allclose(single, double, rtol=1e-7)


def test_layers_are_drawn_when_they_are_asked_for():
    plain, asked = uneven(), []
    net = Network(plain.widths, lambda k: asked.append(k) or plain[k], plain.dtype, "lazy")
    made = initialise(net)
    assert asked == []
    assert made[0].weights.nnz == plain[0].weights.nnz
    assert asked == [0]


@pytest.mark.parametrize("scheme", ["he", "glorot"])
@pytest.mark.parametrize("nparts", [1, 3])
def test_the_same_weights_whatever_the_partition(tmp_path, nparts, scheme, same_weights):
    net = random_net(7, layers=5, widest=60, dtype="float64")
    store = sdnn.save(net, tmp_path / "net.zarr", partition=random_partition(net, nparts), window=3000)
    assert nparts == 1 or max(len(store.windows(part)) for part in range(nparts)) > 1
    drawn = draw_anew(store, scheme, seed=2)
    same_weights(drawn.network, initialise(net, scheme, seed=2))
    assert drawn.generation == store.generation + 1
    assert sdnn.verify(drawn.path) == []
    saved = sdnn.save(initialise(net, scheme, seed=2), tmp_path / "b.zarr", partition=random_partition(net, nparts))
    same_weights(saved.network, drawn.network)


def test_drawing_anew_keeps_the_generation_before(tmp_path, same_weights):
    net = random_net(3, layers=3)
    store = sdnn.save(net, tmp_path / "net.zarr")
    draw_anew(draw_anew(store), seed=1)
    newest = sdnn.open_store(store.path)
    assert newest.generation == 2
    assert set(generations(store.path)) == {1, 2}
    same_weights(sdnn.open_store(store.path, 1).network, initialise(net))
    same_weights(newest.network, initialise(net, seed=1))


@pytest.fixture
def same_weights():
    """Compare two networks to the last bit."""

    def check(found, expected):
        assert found.widths == expected.widths
        for a, b in zip(found, expected, strict=True):
            assert a.activation == b.activation
            np.testing.assert_array_equal(a.bias, b.bias)
            for name in ("indptr", "indices", "data"):
                np.testing.assert_array_equal(getattr(a.weights, name), getattr(b.weights, name))

    return check


def test_random_sparse_has_the_widths_and_densities_that_were_said():
    net = random_sparse([40, 300, 50, 7], [0.1, 0.02, 1.0], activation="tanh", output_activation="sigmoid", dtype="f8")
    assert net.widths == (40, 300, 50, 7)
    for layer, degree in zip(net, (4, 6, 50), strict=True):
        assert set(np.diff(layer.weights.indptr)) == {degree}
        assert layer.weights.has_canonical_format
    assert [str(layer.activation) for layer in net] == ["tanh", "tanh", "sigmoid"]
    assert net.edges == sum(layer.edges for layer in net) == 300 * 4 + 50 * 6 + 7 * 50
    assert net.dtype == np.float64
    np.testing.assert_array_equal(net[2].weights.indices, np.tile(np.arange(50), 7))
    for layer in net:
        assert_standard(layer.weights.data * np.sqrt(np.diff(layer.weights.indptr)[0] / 2))


def test_random_sparse_draws_columns_evenly():
    for density in (0.05, 0.4, 0.95):
        weights = random_sparse([100, 2000], density, seed=1)[0].weights
        counts = np.bincount(weights.indices, minlength=100)
        deviation = np.sqrt(2000 * density * (1 - density))
        assert np.abs(counts - 2000 * density).max() < 4.5 * deviation
        assert len({tuple(row) for row in weights.indices.reshape(2000, -1)}) > 1900


def test_random_sparse_by_one_density_reads_at_least_one_input():
    for density in (1e-9, 0.04, np.float32(0.04)):
        assert set(np.diff(random_sparse((10, 20), density)[0].weights.indptr)) == {1}
    assert [layer.edges for layer in random_sparse(np.array([10, 20, 30]), 0.5)] == [100, 300]


def test_random_sparse_is_reproducible():
    a, b, c = (random_sparse([30, 40, 5], 0.2, seed=seed) for seed in (0, 0, 1))
    for x, y, z in zip(a, b, c, strict=True):
        np.testing.assert_array_equal(x.weights.toarray(), y.weights.toarray())
        assert not np.array_equal(x.weights.indices, z.weights.indices)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"widths": [5]}, "widths: give the neurons of the input and of at least one layer"),
        ({"widths": 5}, "widths: give"),
        ({"widths": [5, 0]}, r"widths\[1\]: 0 is too small"),
        ({"widths": [5, 2.5]}, r"widths\[1\]: 2\.5 is not a whole number"),
        ({"density": 0}, "density is 0: give a share above 0, up to 1, or one for each of 2 layers"),
        ({"density": 1.01}, r"density is 1\.01"),
        ({"density": float("nan")}, "density: nan"),
        ({"density": "dense"}, "density: 'dense' is not a number"),
        ({"density": None}, "density: None is not a number"),
        ({"density": [0.5]}, r"density is \[0\.5\]: .* each of 2 layers"),
        ({"density": [0.5, -1]}, "density is"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"output_activation": "clip"}, "clip needs a parameter"),
        ({"scheme": "lecun"}, "initial weights 'lecun': use one of he, glorot"),
        ({"seed": -1}, "seed: -1 is too small"),
        ({"seed": 0.5}, r"seed: 0\.5 is not a whole number"),
        ({"dtype": "float16"}, "float32 or float64"),
    ],
)
def test_wrong_arguments(how, match):
    with pytest.raises(InputError, match=match):
        random_sparse(**{"widths": [5, 6, 2], "density": 0.5, **how})


def test_wrong_schemes_and_seeds_of_initialise():
    with pytest.raises(InputError, match="use one of he, glorot"):
        initialise(uneven(), "orthogonal")
    with pytest.raises(InputError, match="seed: 'x' is not a whole number"):
        initialise(uneven(), seed="x")


def test_a_draw_belongs_to_its_place():
    """Other entries change a weight by the degrees that scale it, and by nothing else."""
    rng, drawn = np.random.default_rng(3), []
    for share in (0.1, 0.3):
        pattern = scipy.sparse.csr_array((rng.random((80, 90)) < share).astype(np.float64))
        weights = initialise(Network.from_layers([Layer(pattern, np.zeros(80))]), seed=7)[0].weights
        scaled = np.zeros(weights.shape)
        coo = weights.tocoo()
        scaled[coo.row, coo.col] = coo.data / np.sqrt(2 / np.diff(weights.indptr)[coo.row])
        drawn.append(scaled)
    shared = (drawn[0] != 0) & (drawn[1] != 0)
    assert shared.sum() > 100
    np.testing.assert_allclose(drawn[0][shared], drawn[1][shared], rtol=1e-12)


def test_places_layers_and_seeds_are_independent():
    i, zero = np.arange(5000), np.zeros(5000, np.int64)
    draws = [normal_at(0, 0, i, zero), normal_at(0, 0, zero, i), normal_at(1, 0, i, zero), normal_at(0, 1, i, zero)]
    draws.append(normal_at(0, 0, 2**32 - 1 - i, zero))
    assert (np.abs(np.corrcoef([d[1:] for d in draws]) - np.eye(5)) < 5 / np.sqrt(5000)).all()
    grid = normal_at(5, 2, *(v.ravel() for v in np.indices((300, 300)))).reshape(300, 300)
    assert_standard(grid)
    for one, other in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid[:-1, :-1], grid[1:, 1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / 300
    assert np.isfinite(normal_at(0, 0, np.array([2**32 - 1]), np.array([2**32 - 1]))).all()


@pytest.mark.parametrize("scheme", ["he", "glorot"])
def test_what_is_drawn_at_once_changes_nothing(monkeypatch, scheme):
    whole = initialise(uneven(), scheme)[0].weights.data
    monkeypatch.setattr("dasksdnn.training.initial._SLAB", 17)
    np.testing.assert_array_equal(initialise(uneven(), scheme)[0].weights.data, whole)


def test_biases_are_what_is_said():
    assert (initialise(uneven(), bias=0.25)[0].bias == 0.25).all()
    assert not initialise(uneven())[0].bias.any()
    with pytest.raises(InputError, match="bias"):
        initialise(uneven(), bias=np.inf)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data(), st.integers(0, 2**32))
def test_dealing_reads_all_inputs_alike(rows, width, data, seed):
    degree = data.draw(st.integers(1, width))
    columns = dealt_columns(np.random.default_rng(seed), rows, width, degree)
    assert columns.shape == (rows, degree)
    assert (np.diff(columns, axis=1) > 0).all()
    assert columns.min() >= 0
    read = np.bincount(columns.ravel(), minlength=width)
    assert read.size == width
    assert read.max() - read.min() <= 1


def test_dealing_is_random():
    """Two inputs meet in a row as often as chance has it, those of one pack and of two."""
    met = np.zeros((8, 8))
    for seed in range(3000):
        for row in dealt_columns(np.random.default_rng(seed), 3, 8, 3):
            met[np.ix_(row, row)] += 1
    pairs = met[np.triu_indices(8, 1)]
    assert pairs.sum() == 3000 * 3 * 3
    assert np.abs(pairs / pairs.mean() - 1).max() < 5 / np.sqrt(pairs.mean())


def test_random_sparse_reads_every_input():
    net = random_sparse([100, 50, 300, 10], [0.02, 0.3, 1.0], seed=3)
    for layer in net:
        read = np.bincount(layer.weights.indices, minlength=layer.weights.shape[1])
        assert read.min() >= 1
        assert read.max() - read.min() <= 1
