"""What all tests share: small networks, the published fixture where it is there, and the `--slow` switch."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusters import by_value, cluster, new_cluster  # noqa: F401 - fixtures
from places import SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--screenshot", metavar="FILE", help="where the browser's tests put a picture of the dashboard")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="takes minutes: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _partitions_are_made():
    """Partitions neither come from the user's cache nor go there; tests of the cache put the function back."""
    from dasksdnn.partition import caching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching, "cached", lambda net, key, make: make())
        yield


@pytest.fixture
def little_effort(monkeypatch):
    """What refines "default" is as short as "fast": for tests to which it is all one how good a partition is."""
    from dasksdnn.partition.refine import EFFORTS

    monkeypatch.setitem(EFFORTS, "default", EFFORTS["fast"])


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder of the Graph Challenge's published files: 30 layers of 1,024 neurons, 1,200 samples, their categories."""
    folder = SHARED / "graphchallenge"
    if not folder.is_dir():
        pytest.skip("the published Graph Challenge files are not beside this checkout (shared/graphchallenge)")
    return folder


@pytest.fixture(scope="session")
def published_in_eight(published, tmp_path_factory):
    """The published network's 30 layers, stored in eight parts: made once, for all that only read it."""
    import dasksdnn as sdnn

    net = sdnn.graphchallenge(published, 1024, 30)
    path = tmp_path_factory.mktemp("published") / "net.zarr"
    return sdnn.save(net, path, partition=sdnn.partition(net, 8, method="metis"))
