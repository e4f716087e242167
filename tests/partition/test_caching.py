"""Partitions that took long are kept, by what decides them."""

from dataclasses import replace

import dask.config
import numpy as np
import pytest
from networks import random_net, random_partition

from dasksdnn import keeping
from dasksdnn.network import Layer, Network
from dasksdnn.partition import caching
from dasksdnn.partition import partition as module
from dasksdnn.partition.caching import cached  # what it is before the tests put something else in its place
from dasksdnn.partition.partition import partition


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, in which every partition is kept."""
    monkeypatch.setattr(caching, "cached", cached)
    monkeypatch.setattr(caching, "LEAST_SECONDS", 0)
    with dask.config.set({"dasksdnn.cache": str(tmp_path / "cache")}):
        yield tmp_path / "cache"


def kept(cache):
    return sorted(cache.rglob("partition-*.npz"))


@pytest.fixture
def net():
    return random_net(7, layers=4, widest=40)


def test_hit(cache, net, monkeypatch):
    first = partition(net, 3, method="metis", seed=2)
    assert (first.reused, len(kept(cache))) == (False, 1)
    monkeypatch.setattr(module, "Start", None)  # nothing can be made now
    again = partition(net, np.int64(3), method="metis", seed=2)
    assert again.reused
    assert "reused" in repr(again)
    assert (again.seconds, again.volume, again.method) == (first.seconds, first.volume, "metis")
    for a, b in zip(first.owner, again.owner, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_do_not_count(cache, net):
    partition(net, 3, method="metis")
    doubled = [Layer(layer.weights * np.float32(2), layer.bias, layer.activation) for layer in net]
    assert partition(Network.from_layers(doubled), 3, method="metis").reused


@pytest.mark.parametrize("change", [{"nparts": 4}, {"method": "mtkahypar"}, {"epsilon": 0.2}, {"seed": 1}, {"net": 8}])
def test_whatever_decides_counts(cache, net, change):
    asked = {"nparts": 3, "method": "metis", "epsilon": 0.03, "seed": 0}
    partition(net, **asked)
    other = random_net(change.pop("net"), layers=4, widest=40) if "net" in change else net
    assert not partition(other, **{**asked, **change}).reused
    assert len(kept(cache)) == 2


def test_versions_of_libraries_count(cache, net, monkeypatch):
    partition(net, 3, method="metis")
    monkeypatch.setattr(caching, "_version", lambda name: "99")
    assert not partition(net, 3, method="metis").reused


def test_disabled(cache, net):
    partition(net, 3, method="metis", cache=False)
    assert not cache.exists()
    partition(net, 3, method="metis")
    assert not partition(net, 3, method="metis", cache=False).reused


@pytest.mark.parametrize("asked", [{"method": "block"}, {"method": "random"}, {"nparts": 1}])
def test_quick_ones_are_not_looked_up(cache, net, asked):
    partition(net, **{"nparts": 3, "method": "metis", **asked})
    assert not cache.exists()


def test_quick_results_are_not_kept(cache, net, monkeypatch):
    monkeypatch.setattr(caching, "LEAST_SECONDS", 1000)
    partition(net, 3, method="metis")
    assert kept(cache) == []


def test_damaged_entries_are_made_again(cache, net):
    partition(net, 3, method="metis")
    (entry,) = kept(cache)
    entry.write_bytes(entry.read_bytes()[:-5])
    assert not partition(net, 3, method="metis").reused
    assert partition(net, 3, method="metis").reused
    keeping.save(entry.name, b"sound, but no partition")
    assert not partition(net, 3, method="metis").reused


def test_entries_are_recounted(cache, net):
    """Whatever a cache holds, the cost is that of the owners."""
    made = cached(
        net, {}, lambda: replace(random_partition(net, 3), seconds=9.0, metrics=random_partition(net, 2).metrics)
    )
    again = cached(net, {}, lambda: pytest.fail("it was kept"))
    assert made.volume != again.volume == random_partition(net, 3).volume


def test_no_folder_for_a_cache(net, cache, monkeypatch):
    monkeypatch.setattr(keeping, "digest", lambda: None)
    assert not any(partition(net, 3, method="metis").reused for _ in range(2))
