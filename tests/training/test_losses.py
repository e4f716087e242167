"""Losses against PyTorch's autograd, against finite differences, and at the edges: bounds, extremes, ties, dtypes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.network import Activation
from dasksdnn.training.losses import LOSSES

OUTPUTS, COUNT, WIDTH = 7, 11, 16
PAIRS = [
    *(("softmax", name) for name in ("identity", "relu", "clip:2", "leaky_relu:0.1", "sigmoid", "tanh")),
    *(("mse", name) for name in ("identity", "relu", "clip:2", "leaky_relu:0.1", "sigmoid", "tanh")),
    *(("bce", name) for name in ("identity", "sigmoid")),
]
TOLERANCE = {"float64": {"rtol": 1e-10, "atol": 1e-12}, "float32": {"rtol": 1e-4, "atol": 1e-6}}


def activate(z, text):
    """An activation, plainly."""
    f = Activation.parse(text)
    with np.errstate(over="ignore"):
        return {
            "identity": lambda: z,
            "relu": lambda: np.maximum(z, 0),
            "clip": lambda: np.clip(z, 0, f.parameter),
            "leaky_relu": lambda: np.where(z > 0, z, f.parameter * z),
            "sigmoid": lambda: 1 / (1 + np.exp(-z)),
            "tanh": lambda: np.tanh(z),
        }[f.name]().astype(z.dtype)


def make(loss, dtype, seed=0, scale=2.0):
    """Sums z (samples, outputs), targets, and the order of a panel's rows."""
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(COUNT, OUTPUTS)) * scale).astype(dtype)
    targets = {
        "softmax": rng.integers(0, OUTPUTS, COUNT),
        "mse": rng.normal(size=(COUNT, OUTPUTS)),
        "bce": rng.choice([0.0, 0.25, 1.0], (COUNT, OUTPUTS)),
    }[loss]
    return z, targets, rng.permutation(OUTPUTS)


def panel_of(z, activation, rows, width=WIDTH):
    """Outputs as the engine shows them: rows in an order of their own, and garbage behind the samples."""
    y = np.full((z.shape[1], width), np.nan, z.dtype)
    y[:, : len(z)] = activate(z, activation)[:, rows].T
    return y


def run(loss, z, targets, rows, activation, weight=1.0):
    """Loss, hits, and the delta (samples, outputs) in the order of the neurons."""
    y, f = panel_of(z, activation, rows), Activation.parse(activation)
    delta = np.full_like(y, np.nan)
    before = y.copy()
    found = LOSSES[loss].value_and_delta(y, len(z), targets, rows, f, delta, weight)
    np.testing.assert_array_equal(LOSSES[loss].value(y, len(z), targets, rows, f), found)
    np.testing.assert_array_equal(y, before)
    assert (delta[:, len(z) :] == 0).all()
    ordered = np.empty((len(z), z.shape[1]), z.dtype)
    ordered[:, rows] = delta[:, : len(z)].T
    return *found, ordered


def by_torch(loss, z, targets, activation, weight=1.0):
    """The same by autograd."""
    torch = pytest.importorskip("torch")
    import torch.nn.functional as F  # noqa: N812

    f = Activation.parse(activation)
    sums = torch.tensor(z, requires_grad=True)
    y = {
        "identity": lambda: sums,
        "relu": lambda: torch.relu(sums),
        "clip": lambda: F.hardtanh(sums, 0.0, f.parameter),
        "leaky_relu": lambda: F.leaky_relu(sums, f.parameter),
        "sigmoid": lambda: torch.sigmoid(sums),
        "tanh": lambda: torch.tanh(sums),
    }[f.name]()
    wanted = torch.tensor(targets) if loss == "softmax" else torch.tensor(targets.astype(z.dtype))
    each = {
        "softmax": lambda: F.cross_entropy(y, wanted, reduction="none"),
        "mse": lambda: F.mse_loss(y, wanted, reduction="none").mean(dim=1),
        "bce": lambda: (F.binary_cross_entropy_with_logits if f.name == "identity" else F.binary_cross_entropy)(
            y, wanted, reduction="none"
        ).mean(dim=1),
    }[loss]()
    total = each.sum()
    (total * weight).backward()
    return float(total.detach()), sums.grad.numpy()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_equal_to_autograd(loss, activation, dtype):
    for seed in range(3):
        z, targets, rows = make(loss, dtype, seed)
        expected, gradient = by_torch(loss, z, targets, activation, weight=1 / COUNT)
        found, _, delta = run(loss, z, targets, rows, activation, weight=1 / COUNT)
        np.testing.assert_allclose(found, expected, **TOLERANCE[dtype])
        np.testing.assert_allclose(delta, gradient, **TOLERANCE[dtype])
        assert delta.any()


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_equal_to_finite_differences(loss, activation):
    z, targets, rows = make(loss, "float64")
    z += 0.01 * (np.abs(z) < 0.01)  # no bound within a difference
    f, step = Activation.parse(activation), 1e-6
    _, _, delta = run(loss, z, targets, rows, activation, weight=0.5)

    def value(moved):
        return LOSSES[loss].value(panel_of(moved, activation, rows), COUNT, targets, rows, f)[0]

    for place in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[place] += step
        down[place] -= step
        np.testing.assert_allclose(delta[place], 0.5 * (value(up) - value(down)) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_the_order_of_rows_and_the_padding_change_nothing(loss, activation, dtype):
    z, targets, rows = make(loss, dtype)
    plain, hits, delta = run(loss, z, targets, np.arange(OUTPUTS), activation)
    for order in (rows, rows.astype(np.uint32), np.arange(OUTPUTS)[::-1]):
        found, right, moved = run(loss, z, targets, order, activation)
        assert right == hits
        np.testing.assert_allclose(found, plain, rtol=1e-6 if dtype == "float32" else 1e-14)
        np.testing.assert_allclose(moved, delta, **TOLERANCE[dtype])
    one = run(loss, z[:1], targets[:1], rows, activation)
    np.testing.assert_allclose(one[2], delta[:1], **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [80.0, 1e3])
@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_extreme_logits_stay_finite(loss, size, dtype):
    z, targets, rows = make(loss, dtype)
    z = np.where(z > 0, size, -size).astype(dtype)
    expected, gradient = by_torch(loss, z, targets, "identity")
    found, _, delta = run(loss, z, targets, rows, "identity")
    assert np.isfinite(found)
    np.testing.assert_allclose(found, expected, **TOLERANCE[dtype])
    np.testing.assert_allclose(delta, gradient, **TOLERANCE[dtype])


def test_a_saturated_sigmoid_counts_as_pytorch_has_it_and_still_learns():
    """PyTorch's gradient vanishes where p is 0 or 1 to the last bit; p - t, that of the logits, does not."""
    z = np.array([[1e3, -1e3, 80.0, -80.0]], np.float32)
    for t in (0.0, 1.0, 0.25):
        targets = np.full((1, 4), t)
        found, _, delta = run("bce", z, targets, np.arange(4), "sigmoid")
        np.testing.assert_allclose(found, by_torch("bce", z, targets, "sigmoid")[0], rtol=1e-6)
        np.testing.assert_allclose(delta, (activate(z, "sigmoid") - t) / 4, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "activation", "scale"),
    [("softmax", "identity", 1e38), ("mse", "identity", 1e30), ("bce", "identity", 1e38), ("mse", "tanh", 1e3)],
)
def test_large_values_warn_of_nothing(loss, activation, scale):
    z, targets, rows = make(loss, "float32", scale=scale / 4)
    found, _, delta = run(loss, z, targets, rows, activation)
    assert np.isfinite(found)
    assert np.isfinite(delta).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("loss", ["softmax", "mse", "bce"])
def test_outputs_that_are_not_finite_give_such_a_loss(loss, bad):
    z, targets, rows = make(loss, "float32")
    targets[:] = 1
    z[3, 1:3] = bad, -bad
    assert not np.isfinite(run(loss, z, targets, rows, "identity")[0])


@pytest.mark.parametrize("loss", ["softmax", "mse"])
def test_no_delta_passes_a_bound(loss):
    """At the bounds themselves the derivative is that of outside, as with PyTorch's relu, leaky_relu and hardtanh."""
    z = np.array([[0.0, -1.0, 2.0, 3.0, 1.0]])
    targets = np.array([4]) if loss == "softmax" else np.full((1, 5), 7.0)
    for activation, share in (
        ("relu", [0, 0, 1, 1, 1]),
        ("clip:2", [0, 0, 0, 0, 1]),
        ("leaky_relu:0.5", [0.5, 0.5, 1, 1, 1]),
    ):
        _, _, delta = run(loss, z, targets, np.arange(5), activation)
        _, _, through = run(loss, activate(z, activation), targets, np.arange(5), "identity")
        np.testing.assert_array_equal(delta, through * share)
        assert through.all()


def test_right_samples_of_classes():
    y = np.array([[1, 5, 5, 0, 2], [3, 5, 1, 0, 2], [2, 1, 5, 0, 2]], float)  # (outputs, samples)
    for wanted, right in (([1, 0, 0, 0, 0], 5), ([1, 1, 2, 1, 2], 1), ([0, 2, 1, 2, 1], 0)):
        for rows in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
            found = LOSSES["softmax"].value(y[rows], 5, np.array(wanted), np.array(rows), Activation("identity"))
            assert found[1] == right  # of equal outputs the first neuron's counts


def test_right_samples_of_values():
    y = np.array([[0.6, 0.4, 0.5, 0.9], [0.1, 0.4, 0.1, 0.9]])
    targets = np.array([[1, 0], [0, 0], [1, 0], [1, 0]])
    assert LOSSES["bce"].value(y, 4, targets, np.arange(2), Activation("sigmoid"))[1] == 2
    assert LOSSES["bce"].value(y - 0.5, 4, targets, np.arange(2), Activation("identity"))[1] == 2
    assert LOSSES["mse"].value(y, 4, targets, np.arange(2), Activation("identity"))[1] == 0


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "uint8", "bool"])
@pytest.mark.parametrize(("loss", "activation"), [("mse", "tanh"), ("bce", "identity"), ("bce", "sigmoid")])
def test_targets_of_any_dtype(loss, activation, kind):
    z, _, rows = make(loss, "float32")
    targets = (np.arange(COUNT * OUTPUTS).reshape(COUNT, OUTPUTS) % 3 == 0).astype(kind)
    found = run(loss, z, targets, rows, activation)
    plain = run(loss, z, targets.astype(np.float32), rows, activation)
    assert found[:2] == plain[:2]
    np.testing.assert_array_equal(found[2], plain[2])


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_no_panel_is_promoted(loss, activation):
    """A float32 panel is 4 MiB here: what a loss takes beside it is a few such, none of double precision."""
    outputs, width = 4096, 256
    rng = np.random.default_rng(0)
    y = rng.random((outputs, width), np.float32)
    targets = rng.integers(0, outputs, width) if loss == "softmax" else rng.random((width, outputs))
    delta, rows = np.empty_like(y), rng.permutation(outputs)
    f = Activation.parse(activation)
    tracemalloc.start()
    try:
        LOSSES[loss].value_and_delta(y, width, targets, rows, f, delta, 1 / width)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < {"softmax": 1.8, "mse": 2.2, "bce": 3.5}[loss] * y.nbytes


def test_what_does_not_go_together():
    for loss, activation, outputs, match in (
        ("softmax", "identity", 1, "needs at least 2 outputs, the network has 1"),
        ("bce", "relu", 3, "last layer's activation is relu"),
        ("bce", "leaky_relu:0.1", 3, r"leaky_relu:0\.1"),
        ("softmax", "leaky_relu:-0.1", 3, "negative slope"),
        ("mse", "leaky_relu:-0.1", 3, "negative slope"),
    ):
        with pytest.raises(InputError, match=match):
            LOSSES[loss].check(Activation.parse(activation), outputs)
    for loss, activation in PAIRS:
        LOSSES[loss].check(Activation.parse(activation), 2)
