"""The model that chooses a panel's width, held against measurement: `pytest tests/benchmarks --benchmark-enable`.

The widths are measured one after the other, each the best of several runs; the table says which share of the best rate
the chosen width reaches. By default everything runs once and only the results' equality is checked.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest

import dasksdnn as sdnn
from dasksdnn import host
from dasksdnn.engines.loading import load, sizes_of
from dasksdnn.kernels.chain import run_chain
from dasksdnn.kernels.panels import new_panel
from dasksdnn.plan.schedule import tile_for

WIDTHS = (16, 32, 48, 64, 128, 256)
SAMPLES = 256


def seconds(chain, tile, repeats):
    x, y = new_panel(max(chain.widths), tile, np.float32), new_panel(max(chain.widths), tile, np.float32)
    best = np.inf
    for _ in range(repeats):
        x[...] = np.linspace(0, 1, x.shape[0], dtype=np.float32)[:, None]
        start = perf_counter()
        out, _ = run_chain(chain, 0, len(chain), x, y, tile)
        best = min(best, perf_counter() - start)
    return best / tile, out[: chain.widths[-1], 0].copy()


@pytest.mark.parametrize("pattern", ["radixnet", "random", "community"])
@pytest.mark.parametrize(
    "neurons", [1024, pytest.param(16384, marks=pytest.mark.slow), pytest.param(65536, marks=pytest.mark.slow)]
)
def test_the_chosen_width(pattern, neurons, benchmark, tmp_path, capsys):
    make = {
        "radixnet": lambda: sdnn.radixnet(neurons, 3, weights="random", bias=0.0),
        "random": lambda: sdnn.random_network(neurons, 3),
        "community": lambda: sdnn.community(neurons, 3),
    }[pattern]
    store = sdnn.save(make(), tmp_path / "net.zarr")
    chain, chosen = load(store, 0, 3).chain, tile_for(sizes_of(store), SAMPLES, 1, host.caches())
    found = {w: seconds(chain, w, 9 if benchmark.enabled else 1) for w in sorted({*WIDTHS, chosen})}
    best = min(each for each, _ in found.values())
    if benchmark.enabled:
        rates = "  ".join(f"{w}{'*' if w == chosen else ''}: {best / each:.0%}" for w, (each, _) in found.items())
        with capsys.disabled():
            print(f"\n{pattern} {neurons}: {rates}")
    benchmark.pedantic(seconds, (chain, chosen, 1))
    for _, column in found.values():
        np.testing.assert_array_equal(column, found[chosen][1])
