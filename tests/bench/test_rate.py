"""A measured rate is of the right order, and what cannot be measured is said."""

import numpy as np
import pytest
import scipy.sparse

import dasksdnn as sdnn
from dasksdnn.bench import rate
from dasksdnn.errors import InputError
from dasksdnn.network import Layer, Network


@pytest.mark.parametrize("batch", [1, 5])
def test_a_rate(batch):
    assert 1e6 < rate.kernel_rate(sdnn.radixnet(64, 3), batch) < 1e12


def test_only_the_first_layers_are_loaded(monkeypatch):
    monkeypatch.setattr(rate, "NONZEROS", 64 * 32 + 1)
    loaded = []
    net = sdnn.radixnet(64, 12)
    counting = Network(net.widths, lambda k: loaded.append(k) or net[k], name="counting")
    rate.kernel_rate(counting, 1)
    assert loaded == [0, 1]


def test_wrong_input():
    with pytest.raises(InputError, match="batch 0"):
        rate.kernel_rate(sdnn.radixnet(64, 1), 0)
    empty = Network.from_layers([Layer(scipy.sparse.csr_array((4, 4), dtype=np.float32), np.zeros(4))], "empty")
    with pytest.raises(InputError, match="empty: its first 1 layers have no nonzeros"):
        rate.kernel_rate(empty, 1)
