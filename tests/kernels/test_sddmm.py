"""Gradients on the pattern equal the dense ones, with the same bits on every machine; updates equal PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BLOCKS, POSITIONS, TIGHT, bits, block_of, random_block, random_panel

from dasksdnn.kernels.sddmm import row_sums, sddmm, sddmm_update
from dasksdnn.kernels.spmm import split_rows
from dasksdnn.kernels.update import SGD, Adam, Momentum, update

RULES = [
    SGD(0.1),
    SGD(0.1, decay=0.01),
    Momentum(0.1, decay=0.01),
    Momentum(0.1, nesterov=True),
    Adam(0.01, decay=0.1),
    Adam(0.01, decay=0.1, decoupled=True),
]


def dense(weights, delta, x):
    """Entry by entry, in double precision."""
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    return np.einsum("es,es->e", delta[rows].astype(np.float64), x[weights.indices].astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(
    made=BLOCKS,
    samples=st.integers(0, 150),
    dtype=st.sampled_from(["float32", "float64"]),
    positions=st.sampled_from(POSITIONS),
)
def test_gradients_equal_the_dense_ones(made, samples, dtype, positions):
    weights, bias = random_block(**made, dtype=dtype)
    delta, x = (random_panel(made["seed"] + i, n, 150, dtype) for i, n in enumerate(weights.shape))
    block, gradient = block_of(weights, positions), np.full(weights.nnz, 7, dtype)
    right = dense(weights, delta[:, :samples], x[:, :samples])
    near = {name: 10 * value for name, value in TIGHT[dtype].items()}
    sddmm(block, delta, x, gradient, samples)
    np.testing.assert_allclose(gradient, right, **near)
    sddmm(block, delta, x, gradient, samples, accumulate=True)
    np.testing.assert_allclose(gradient, 2 * right, **near)
    for times in (1, 2):
        row_sums(delta, samples, bias, accumulate=times == 2)
        np.testing.assert_allclose(bias, times * delta[:, :samples].sum(axis=1, dtype=np.float64), **near)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [7, 64, 100])
def test_gradients_have_the_same_bits_for_every_register(dtype, samples):
    weights, _ = random_block(3, 60, 50, 0.4, 17, dtype)
    block, delta, x = block_of(weights), random_panel(4, 60, 100, dtype), random_panel(3, 50, 100, dtype)
    outputs = []
    for vector in (None, 64, 32, 16):
        outputs.append(np.empty(weights.nnz, dtype))
        sddmm(block, delta, x, outputs[-1], samples, vector=vector)
    for other in outputs[1:]:
        np.testing.assert_array_equal(bits(other), bits(outputs[0]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fused_update_is_a_gradient_and_an_update(rule, dtype):
    weights, _ = random_block(5, 300, 90, 0.3, 9, dtype)  # more entries than the buffer holds
    block, parts = block_of(weights), split_rows(block_of(weights), 3)
    data = [weights.data.copy(), weights.data.copy()]
    moments = [tuple(np.zeros(weights.nnz, dtype) for _ in rule.moments) for _ in range(2)]
    for step in range(1, 4):
        delta, x = random_panel(2 * step, 300, 48, dtype), random_panel(2 * step + 1, 90, 48, dtype)
        gradient, earlier = np.empty(weights.nnz, dtype), np.empty(weights.nnz, dtype)
        sddmm(block, delta, x, gradient, 48)
        sddmm(block, delta, x, earlier, 16)  # as a micro-batch would have left
        update(rule, step, data[0], moments[0], gradient + earlier)
        for part in parts:
            sddmm_update(block, delta, x, 48, rule, step, data[1], moments[1], gradient=earlier, part=part)
    np.testing.assert_array_equal(bits(data[0]), bits(data[1]))
    for one, other in zip(*moments, strict=True):
        np.testing.assert_array_equal(bits(one), bits(other))


@pytest.mark.parametrize("rule", [*RULES, Adam(0.01, beta2=0.99999)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates_equal_pytorch(rule, dtype):
    """PyTorch in double precision: ours in single is off by no more than its own rounding."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    values = rng.normal(size=100).astype(dtype)
    start = values.astype(np.float64)
    held = torch.tensor(start.copy(), requires_grad=True)
    if isinstance(rule, Adam):
        kind = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
        optimizer = kind([held], rule.lr, (rule.beta1, rule.beta2), rule.eps, rule.decay)
    else:
        mu, nesterov = getattr(rule, "mu", 0.0), getattr(rule, "nesterov", False)
        optimizer = torch.optim.SGD([held], rule.lr, mu, weight_decay=rule.decay, nesterov=nesterov)
    moments = tuple(np.zeros(100, dtype) for _ in rule.moments)
    for step in range(1, 8):
        gradient = rng.normal(size=100).astype(dtype)
        held.grad = torch.tensor(gradient.astype(np.float64))
        optimizer.step()
        update(rule, step, values, moments, gradient)
    moved, right = values - start, held.detach().numpy() - start
    tight = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 1e-4, "atol": 2e-6}
    np.testing.assert_allclose(moved, right, **tight)
    if isinstance(rule, Adam):
        second = optimizer.state[held]["exp_avg_sq"].numpy()
        np.testing.assert_allclose(moments[1], second, rtol=1e-11 if dtype == "float64" else 2e-6)


def test_moments_must_fit():
    with pytest.raises(ValueError, match="Adam needs 2 moments"):
        update(Adam(), 1, np.zeros(3), (np.zeros(3),), np.zeros(3))


def test_panels_in_another_order_are_refused():
    weights, _ = random_block(1, 10, 20, 0.5)
    delta = np.asfortranarray(np.ones((10, 16), np.float32))
    with pytest.raises(ValueError, match="C order"):
        sddmm(block_of(weights), delta, np.ones((20, 16), np.float32), weights.data.copy(), 16)
