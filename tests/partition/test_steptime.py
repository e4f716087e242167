"""The model of a step against numbers worked out by hand."""

import numpy as np
import pytest
from partition_cases import network

from dasksdnn.errors import InputError
from dasksdnn.partition.metrics import recount
from dasksdnn.partition.steptime import (
    BANDWIDTH,
    LATENCY,
    Machine,
    StepTime,
    best_nparts,
    latency_bound_from,
    step_time,
)

MACHINE = Machine(rate=10.0, latency=0.5, bandwidth=8.0)


def counted():
    """Two dense layers of four neurons in two parts, part 0 with three rows of the second: 8 and 12 nonzeros.

    Before layer 1 parts send 2 words each, which costs nothing. Before layer 2 likewise: each part one message of 2 words.
    """
    dense = np.ones((4, 4))
    half = np.array([0, 0, 1, 1])
    return recount(network([dense, dense]), [half, half, np.array([0, 0, 0, 1])], 2)


def test_inference_by_hand():
    found = step_time(counted(), MACHINE, batch=3, training=False)
    assert found == StepTime(compute=(8 + 12) * 3 / 10, latency=0.5, bandwidth=2 * 3 * 4 / 8)
    assert found.total == 6.0 + 0.5 + 3.0


def test_training_by_hand():
    found = step_time(counted(), MACHINE, batch=3, itemsize=8)
    assert found == StepTime(compute=3 * 20 * 3 / 10, latency=2 * 0.5, bandwidth=2 * 2 * 3 * 8 / 8)
    assert found.as_dict() == {"compute": 18.0, "latency": 1.0, "bandwidth": 12.0, "total": 31.0}


def test_one_layer_sends_nothing():
    metrics = recount(network([np.ones((2, 2))]), [np.array([0, 1])] * 2, 2)
    assert metrics.volume == 2
    assert step_time(metrics, MACHINE, 1) == StepTime(3 * 2 / 10, 0.0, 0.0)


def test_each_layer_waits_for_its_own_busiest_part():
    """Part 0 sends before layer 2 and part 1 before layer 3: nobody sends twice, yet a step waits twice."""
    first, second, third = np.eye(2), np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]])
    metrics = recount(network([first, second, third]), [np.array([0, 1])] * 4, 2)
    assert metrics.max_messages == 1
    assert step_time(metrics, MACHINE, 1, training=False).latency == 2 * 0.5


def steps(*pairs):
    return {2 ** (i + 1): StepTime(1.0, latency, bandwidth) for i, (latency, bandwidth) in enumerate(pairs)}


def test_crossover():
    assert latency_bound_from(steps((1, 2), (3, 2), (4, 1))) == 4
    assert latency_bound_from(steps((3, 2), (1, 2), (4, 1))) == 8
    assert latency_bound_from(steps((3, 2), (4, 2))) == 2
    assert latency_bound_from(steps((3, 2), (2, 2))) is None


def test_best_nparts():
    assert best_nparts(steps((2, 2), (1, 1), (2, 1))) == 4
    assert best_nparts(steps((2, 2), (2, 2))) == 2


def test_a_machine_by_default():
    assert Machine(1e9) == Machine(1e9, LATENCY, BANDWIDTH)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rate": 0}, "rate 0"),
        ({"rate": float("nan")}, "rate nan"),
        ({"rate": 1, "latency": -1e-6}, "latency -1e-06"),
        ({"rate": 1, "bandwidth": float("inf")}, "bandwidth inf"),
    ],
)
def test_machines_that_cannot_be(values, says):
    with pytest.raises(InputError, match=says):
        Machine(**values)


def test_no_sample():
    with pytest.raises(InputError, match="batch 0"):
        step_time(counted(), MACHINE, 0)
