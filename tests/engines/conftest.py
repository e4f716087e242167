"""Stores that all engines run, and none changes."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Call `kept("name", make)`: the store that `make(path)` writes, once for all engines: writing one takes long."""
    folder, stores = tmp_path_factory.mktemp("kept"), {}

    def store(name, make):
        if name not in stores:
            stores[name] = make(folder / f"{name}.zarr")
        return stores[name]

    return store
