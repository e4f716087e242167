"""Optimizers by name: PyTorch's of the same names, and arguments that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.kernels.update import SGD, Adam, Momentum, update
from dasksdnn.training.optimizers import OPTIMIZERS, clip_factor, is_real, make_rule, with_rate


def test_names_and_arguments_reach_the_rules():
    assert make_rule("sgd", 0.1, weight_decay=0.2) == SGD(0.1, 0.2)
    assert make_rule("momentum", 0.1) == Momentum(0.1, 0.9, 0.0, False)
    assert make_rule("momentum", 0.1, momentum=0.5, nesterov=True, weight_decay=0.2) == Momentum(0.1, 0.5, 0.2, True)
    assert make_rule("adam", 0.1, weight_decay=0.2) == Adam(0.1, 0.9, 0.999, 1e-8, 0.2, decoupled=False)
    assert make_rule("adamw", 0.1, weight_decay=0.2) == Adam(0.1, 0.9, 0.999, 1e-8, 0.2, decoupled=True)
    assert make_rule("adam", 1) == make_rule("adam", np.int8(1)) == make_rule("adam", np.float32(1)) == Adam(1.0)
    assert type(make_rule("sgd", np.float32(0.5)).lr) is float


def theirs(torch, name, parameter, how):
    common = {"lr": how["lr"], "weight_decay": how["weight_decay"]}
    if name in ("sgd", "momentum"):
        momentum = how["momentum"] if name == "momentum" else 0.0
        return torch.optim.SGD(
            [parameter], momentum=momentum, nesterov=how["nesterov"] and name == "momentum", **common
        )
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]([parameter], **common)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_pytorch(name, nesterov, decay):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    how = {"lr": 0.05, "momentum": 0.8, "nesterov": nesterov, "weight_decay": decay}
    rule, values = make_rule(name, **how), rng.normal(size=40)
    moments = tuple(np.zeros_like(values) for _ in rule.moments)
    parameter = torch.nn.Parameter(torch.tensor(values))
    optimizer = theirs(torch, name, parameter, how)
    for step in range(1, 8):
        gradient = rng.normal(size=40) * (rng.random(40) < 0.8)
        if step == 5:  # another rate, as schedules give
            rule = with_rate(rule, 0.01)
            optimizer.param_groups[0]["lr"] = 0.01
        update(rule, step, values, moments, gradient)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-10, atol=1e-13)


def test_another_rate_changes_nothing_else():
    for name in OPTIMIZERS:
        rule = make_rule(name, 0.1, momentum=0.5, nesterov=True, weight_decay=0.2)
        assert with_rate(rule, 0.3) == make_rule(name, 0.3, momentum=0.5, nesterov=True, weight_decay=0.2)
        assert rule.lr == 0.1


@pytest.mark.parametrize("most", [0.5, 1.0, 100.0])
def test_clipping_is_that_of_pytorch(most):
    torch = pytest.importorskip("torch")
    for scale in (0.0, 1e-3, 1.0, 1e6):
        gradient = np.random.default_rng(0).normal(size=30) * scale
        parameter = torch.nn.Parameter(torch.zeros(30, dtype=torch.float64))
        parameter.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([parameter], most)
        clipped = gradient * clip_factor(float(np.linalg.norm(gradient)), most)
        np.testing.assert_allclose(clipped, parameter.grad.numpy(), rtol=1e-12)
        assert np.linalg.norm(clipped) <= most


@pytest.mark.parametrize(
    ("name", "how", "match"),
    [
        ("adagrad", {}, "optimizer 'adagrad': use one of sgd, momentum, adam, adamw"),
        (None, {}, "optimizer None"),
        *(
            ("sgd", {"lr": lr}, "lr is .*: it must be a number from 0 up")
            for lr in (-1, np.nan, np.inf, "1", None, True)
        ),
        *(("adam", {"weight_decay": d}, "weight_decay is .*from 0 up") for d in (-0.1, np.inf, "x", None, 1j)),
        *(("momentum", {"momentum": m}, "momentum is .*less than 1") for m in (1, -0.1, np.nan, "0.9", None, False)),
        *(
            ("adam", {beta: b}, f"{beta} is .*less than 1")
            for beta in ("beta1", "beta2")
            for b in (1, -0.1, np.nan, "1")
        ),
        *(("adam", {"eps": e}, "eps is .*positive") for e in (0, -1e-8, np.inf, None)),
    ],
)
def test_wrong_arguments(name, how, match):
    with pytest.raises(InputError, match=match):
        make_rule(name, **{"lr": 0.1, **how})


def test_numbers():
    assert all(is_real(value) for value in (0, 1.5, np.int16(2), np.float32(3), np.float64(4)))
    assert not any(is_real(value) for value in (True, np.True_, "1", None, 1j, np.ones(1)))


def test_moments_of_adam_reach_the_rule():
    assert make_rule("adam", 0.1, beta1=0.8, beta2=0.99, eps=1e-6) == Adam(0.1, 0.8, 0.99, 1e-6)


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_no_factor_mends_a_gradient_that_is_not_finite(norm):
    with pytest.raises(FloatingPointError, match=str(norm)):
        clip_factor(norm, 1.0)
