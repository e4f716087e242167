"""The loops that measure the machine do what they say; how fast, no test asserts."""

from __future__ import annotations

import numpy as np
import pytest

from dasksdnn.bench.contender import Crew
from dasksdnn.bench.loops import copy, fused_multiply_adds, multiply_adds_a_step, read
from dasksdnn.bench.machine import bandwidth, describe, multiply_adds, work_of_peak


@pytest.mark.parametrize("steps", [0, 1, 1000])
def test_multiply_adds_are_all_done(steps):
    total = fused_multiply_adds(steps, np.float32(1), np.float32(1))
    assert total == steps * multiply_adds_a_step(4)


def test_multiply_adds_multiply():
    # s = 2 s + 1 from zero: 2^n - 1
    assert fused_multiply_adds(10, np.float64(2), np.float64(1)) == 1023 * multiply_adds_a_step(8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [0, 1, 191, 192, 193, 1000])
def test_reading_reads_everything(values, dtype):
    array = np.arange(values, dtype=dtype)
    assert read(array) == array.sum()


def test_copying():
    source, target = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    copy(source, target)
    np.testing.assert_array_equal(source, target)


def test_limits_by_threads():
    with Crew(1) as one, Crew(2) as two:
        found = bandwidth([one, two], repeats=1, far=1 << 16)
        assert multiply_adds(two, steps=10).run() == work_of_peak(2, steps=10)
    assert list(found) == [1, 2]
    assert all(limit.read > 0 and limit.copy > 0 for limit in found.values())


def test_the_machine_is_named():
    named = describe(["numpy", "no-such-package"])
    assert named["versions"] == {"numpy": np.__version__, "no-such-package": None}
    assert named["processors"] >= 1
    assert named["processor"]
