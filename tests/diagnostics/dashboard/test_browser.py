"""The dashboard's page and a report in a real browser: drawn while runs go on, and without a complaint."""

from __future__ import annotations

import json
import urllib.request
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest
from browsers import Heard, chromium
from clusters import Slow, running_cluster

import dasksdnn as sdnn
import dasksdnn.dashboard
from dasksdnn.diagnostics.report import render

pytestmark = pytest.mark.browser
pytest.importorskip("bokeh", reason="bokeh is not installed: pip install 'dasksdnn[browser]'")

SIZE = {"width": 1400, "height": 900}
#: Sources of panels that every run fills; of runs of parts; of training.
EVERY = ("load", "memory", "store", "timeline", "batches")
PARTS = ("words-planned", "words-measured")
TRAINING = ("loss", "loss-epochs", "accuracy", "accuracy-epochs")
#: Waits until sources of these names have rows.
FILLED = """names => window.Bokeh && Bokeh.documents.length && names.every(
    name => Bokeh.documents[0].get_model_by_name(`sdnn-${name}-data`).get_length() > 0)"""
#: Waits until the line above the panels says all of this.
SAID = """texts => window.Bokeh && Bokeh.documents.length && texts.every(
    text => Bokeh.documents[0].get_model_by_name('sdnn-line').text.includes(text))"""
#: Waits until about as many words were sent as were planned, between any two (that it is the same is tested without a page).
ALIKE = """() => { const [planned, sent] = ["planned", "measured"].map(
    name => [...Bokeh.documents[0].get_model_by_name(`sdnn-words-${name}-data`).get_column("words")]);
    return planned.length > 0 && planned.every((n, i) => n > 0 && Math.abs(n - sent[i]) <= 0.1 * n); }"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=3) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport=SIZE)
    opened.set_default_timeout(90_000)
    yield opened
    opened.close()


@contextmanager
def going_on(work, *arguments, **options):
    """Let a run go on while the block looks at it; then wait for its end, and let its error be the test's."""
    errors = []

    def run():
        try:
            work(*arguments, **options)
        except Exception as error:
            errors.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(120)
    assert not thread.is_alive()
    assert errors == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    net = sdnn.radixnet(neurons=256, layers=12, bias=0.0)
    store = sdnn.save(
        net, tmp_path_factory.mktemp("runs") / "net.zarr", partition=sdnn.partition(net, 6, method="block")
    )
    return store, np.random.default_rng(0).random((600, 256)).astype(np.float32)


@pytest.mark.parametrize(("strategy", "filled"), [("parts", EVERY + PARTS), ("samples", EVERY)])
def test_panels_draw_inference(client, page, stored, tmp_path, strategy, filled):
    store, x = stored
    heard = Heard(page)
    page.goto(dasksdnn.dashboard.register(client))
    page.wait_for_selector(".bk-Figure")
    slow = Slow(x, tmp_path, seconds=0.1)
    how = {"client": client, "out": "categories", "batch": 60, "strategy": strategy}
    with going_on(sdnn.infer, store, slow, **how) as run:
        page.wait_for_function(SAID, arg=[f"inference of net.zarr, {strategy} split", "running"])
        page.wait_for_function(FILLED, arg=list(filled))
        assert run.is_alive()
    assert page.locator(".bk-Figure").count() == 9
    page.wait_for_function(SAID, arg=[f"inference of net.zarr, {strategy} split", "done in"])
    assert heard.complaints == []


def test_panels_draw_training(client, page, tmp_path, request):
    net = sdnn.random_sparse([256, 512, 512, 512, 10], [0.1, 0.1, 0.1, 1.0])
    partition = sdnn.partition(net, 6, method="metis")
    store = sdnn.save(net, tmp_path / "digits.zarr", partition=partition)
    x = np.random.default_rng(0).random((2000, 256)).astype(np.float32)
    y = x[:, :10].argmax(axis=1)
    heard = Heard(page)
    page.goto(dasksdnn.dashboard.register(client))
    page.wait_for_selector(".bk-Figure")
    how = {"epochs": 6, "batch_size": 64, "validation": (x[:200], y[:200]), "strategy": "parts", "client": client}
    with going_on(sdnn.train, store, x, y, **how) as run:
        page.wait_for_function(SAID, arg=["training of digits.zarr, parts split", "running"])
        page.wait_for_function(FILLED, arg=[*EVERY, *PARTS, *TRAINING])
        epochs = "() => Bokeh.documents[0].get_model_by_name('sdnn-loss-epochs-data').get_length() >= 4"
        page.wait_for_function(epochs)
        assert run.is_alive()
        page.wait_for_timeout(1500)  # what has come last is drawn
        if (target := request.config.getoption("--screenshot")) is not None:
            page.screenshot(path=target)
    assert heard.complaints == []
    page.wait_for_function(SAID, arg=["done in"])
    page.wait_for_function(ALIKE)  # no sample dies in training, validation counts, and workers tell a moment longer


def test_each_panel_has_a_page_that_jupyterlab_lists(client, page):
    link = dasksdnn.dashboard.register(client).removesuffix("/sdnn")
    with urllib.request.urlopen(f"{link}/individual-plots.json") as answer:
        buttons = {name: url for name, url in json.load(answer).items() if "Sdnn" in name}
    assert len(buttons) == 9
    heard = Heard(page)
    for url in buttons.values():
        page.goto(link + url)
        page.wait_for_selector(".bk-Figure")
    page.goto(f"{link}/status")  # Dask's own pages are still there, and lead to this one
    assert page.locator("a[href='sdnn']").count() == 1
    page.wait_for_selector(".bk-Figure")
    assert [text for text in heard.complaints if "sdnn" in text.lower()] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_loads_nothing(browser, tmp_path, scheme):
    epoch = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "validation_loss": 2.0, "validation_accuracy": None}
    record = {
        "command": "train",
        "store": "<b>net</b>.zarr",
        "peak_rss_bytes": 1 << 28,
        "plan": {"budget": 1 << 30, "projected": 1 << 29},
        "epochs": [epoch, {**epoch, "epoch": 2, "loss": 0.5}],
        "recount": {"nparts": 2, "send": [[0, 3], [2, 0]], "volume_per_layer": [3, 2]},
    }
    (tmp_path / "page.html").write_text(render(record, "run.json"))
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)
    heard = Heard(page)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("h1").inner_text() == "dasksdnn train: <b>net</b>.zarr"
    assert page.locator("svg").count() == 5
    box = page.locator("svg polyline").first.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 20
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in heard.requests if not url.startswith(("file://", "data:"))] == []
    assert heard.complaints == []
    page.close()
