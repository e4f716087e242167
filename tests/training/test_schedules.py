"""Learning rates: those of PyTorch's schedulers where they define the same, and what each begins and ends with."""

from __future__ import annotations

import numpy as np
import pytest

from dasksdnn.errors import InputError
from dasksdnn.training.schedules import SCHEDULES, Schedule

LR, BATCHES, EPOCHS = 0.3, 4, 9
STEPS = BATCHES * EPOCHS


def ours(schedule, steps=STEPS):
    return [schedule.rate(LR, step, BATCHES, STEPS) for step in range(1, steps + 1)]


def theirs(make, by_epoch=False):
    """The rates of a scheduler of PyTorch that goes on after each step, or each epoch."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, rates = make(torch.optim.lr_scheduler, optimizer), []
    for step in range(1, STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not by_epoch or step % BATCHES == 0:
            scheduler.step()
    return rates


def test_steps_are_those_of_pytorch():
    for every, gamma in ((3, 0.1), (1, 0.5), (100, 0.1), (2, 1.0)):
        expected = theirs(lambda kinds, o, n=every, g=gamma: kinds.StepLR(o, n, g), by_epoch=True)
        np.testing.assert_allclose(ours(Schedule("step", every=every, gamma=gamma)), expected, rtol=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_cosine_is_that_of_pytorch(floor):
    expected = theirs(lambda kinds, o: kinds.CosineAnnealingLR(o, STEPS, eta_min=floor * LR))
    np.testing.assert_allclose(ours(Schedule("cosine", floor=floor)), expected, rtol=1e-9)


@pytest.mark.parametrize("warmup", [2, 10, STEPS])
def test_a_warm_up_is_that_of_pytorch(warmup):
    expected = theirs(lambda kinds, o: kinds.LinearLR(o, 1 / warmup, 1.0, warmup - 1))
    np.testing.assert_allclose(ours(Schedule(warmup=warmup)), expected, rtol=1e-12)


def test_a_warm_up_comes_before_the_cosine():
    rates = ours(Schedule("cosine", warmup=6, floor=0.1))
    np.testing.assert_allclose(rates[:7], [LR * min(1, n / 6) for n in range(1, 8)])
    whole = Schedule("cosine", floor=0.1)
    np.testing.assert_allclose(rates[6:], [whole.rate(LR, n, BATCHES, STEPS - 6) for n in range(1, STEPS - 5)])
    assert rates[5] == rates[6] == LR == max(rates)
    assert np.all(np.diff(rates[6:]) < 0)


def test_a_warm_up_within_steps_counts_as_epochs_too():
    rates = ours(Schedule("step", warmup=6, every=2, gamma=0.5))
    np.testing.assert_allclose(rates[:8], [LR * min(1, n / 6) for n in range(1, 9)])
    np.testing.assert_allclose(rates[8:16], LR / 2)
    np.testing.assert_allclose(rates[-1], LR / 16)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 5, 1000])
def test_rates_are_finite_positive_and_at_most_lr(name, warmup):
    rates = ours(Schedule(name, warmup=warmup), STEPS + 20)  # and beyond the end
    assert all(isinstance(rate, float) for rate in rates)
    assert 0 < min(rates[:STEPS]) <= max(rates) <= LR
    assert min(rates) >= 0
    assert name != "constant" or warmup or set(rates) == {LR}


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"name": "linear"}, "schedule 'linear': use one of constant, step, cosine"),
        ({"name": None}, "schedule None"),
        ({"warmup": -1}, "warmup is -1: it must be a number of steps from 0 up"),
        ({"warmup": 1.5}, r"warmup is 1\.5"),
        ({"warmup": True}, "warmup is True"),
        ({"every": 0}, "every is 0: it must be a number of epochs from 1 up"),
        ({"gamma": -0.1}, r"gamma is -0\.1: it must be from 0 to 1"),
        ({"floor": float("nan")}, "floor is nan"),
    ],
)
def test_wrong_schedules(how, match):
    with pytest.raises(InputError, match=match):
        Schedule(**how)
