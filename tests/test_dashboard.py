"""Getting the page on a scheduler: by a setting, by a call, or with one line that says why not."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

import dask
import pytest

import dasksdnn.dashboard
from dasksdnn.engines.cluster.telemetry import is_watched
from dasksdnn.errors import ClusterError, InputError

pytest.importorskip("bokeh", reason="bokeh is not installed: pip install 'dasksdnn[dashboard]'")


@pytest.fixture
def scheduler(tmp_path):
    """Make clients of clusters without workers."""
    from contextlib import ExitStack

    from distributed import Client, LocalCluster

    with ExitStack() as held, dask.config.set({"temporary-directory": str(tmp_path)}):

        def make(**options):
            options = {"dashboard_address": "127.0.0.1:0", **options}
            cluster = LocalCluster(n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", **options)
            return held.enter_context(Client(held.enter_context(cluster), set_as_default=False))

        yield make


def status(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_one_setting_adds_the_page(scheduler):
    with dask.config.set({"distributed.scheduler.preload": ["dasksdnn.dashboard"]}):
        client = scheduler()
    assert is_watched(client)
    link = client.dashboard_link.removesuffix("/status")
    assert status(f"{link}/sdnn") == status(f"{link}/individual-sdnn-timeline") == status(f"{link}/status") == 200


def test_one_call_adds_the_page(scheduler):
    client = scheduler()
    assert not is_watched(client)
    assert status(client.dashboard_link.replace("/status", "/sdnn")) == 404
    page = dasksdnn.dashboard.register(client)
    assert page == dasksdnn.dashboard.register(client)  # once is enough
    assert is_watched(client)
    assert status(page) == status(client.dashboard_link) == 200
    client.restart()
    assert is_watched(client)


def test_what_it_needs(scheduler, monkeypatch):
    with pytest.raises(InputError, match="needs a client"):
        dasksdnn.dashboard.register()
    with pytest.raises(ClusterError, match="has no dashboard to add a page to"):
        dasksdnn.dashboard.register(scheduler(dashboard_address=None))
    client = scheduler()
    monkeypatch.setitem(sys.modules, "bokeh.server.tornado", None)
    with pytest.raises(ClusterError, match=r"needs Bokeh .* pip install 'dasksdnn\[dashboard\]'"):
        dasksdnn.dashboard.register(client)
    assert not is_watched(client)
