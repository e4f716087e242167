"""What the dashboard costs a run: without it, with it registered, and with its page open in a browser, in turns.

    python tests/benchmarks/dashboard_cost.py [--repeats 5] [--samples 40000] [--strategy parts]

Prints the median of each, wall time and processor time of the cluster's processes, and their ratios to the first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browsers import chromium
from clusters import running_cluster

import dasksdnn as sdnn
import dasksdnn.dashboard
from dasksdnn.engines.cluster.telemetry import WATCHED

MODES = ("without", "registered", "open")
#: Seconds in which a page loads, and in which the scheduler forgets one that was closed.
LOADING, FORGETTING = 3, 17


def processor_time(client):
    """Seconds that the scheduler, this process, and the workers have computed."""
    return sum(client.run(_own_time).values()) + _own_time()


def _own_time():
    return sum(os.times()[:2])


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--neurons", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--strategy", choices=("samples", "parts"), default="parts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        folder = Path(scratch)
        net = sdnn.radixnet(neurons=given.neurons, layers=given.layers, bias=0.0)
        store = sdnn.save(net, folder / "net.zarr", partition=sdnn.partition(net, 8, method="metis"))
        np.save(folder / "x.npy", np.random.default_rng(0).random((given.samples, given.neurons), np.float32))
        with running_cluster(folder, memory="4GiB") as client:
            url = dasksdnn.dashboard.register(client)
            took = {mode: [] for mode in MODES}
            for turn in range(-1, given.repeats):
                for mode in MODES[turn % 3 :] + MODES[: turn % 3]:
                    found = measure(client, browser, url, mode, store, folder / "x.npy", given.strategy)
                    print(
                        f"turn {turn}, {mode}: {found[0]:.2f} s, processors {found[1]:.2f} s",
                        file=sys.stderr,
                        flush=True,
                    )
                    if turn >= 0:  # the first loads, and compiles
                        took[mode].append(found)
    report(took)


def measure(client, browser, url, mode, store, x, strategy):
    """Wall and processor seconds of a run."""
    client.set_metadata([WATCHED], mode != "without")
    page = browser.new_page(viewport={"width": 1400, "height": 900}) if mode == "open" else None
    if page is not None:
        page.goto(url)
        page.wait_for_selector(".bk-Figure")
        page.wait_for_timeout(LOADING * 1000)
    before, began = processor_time(client), perf_counter()
    sdnn.infer(store, x, out="categories", client=client, strategy=strategy)
    found = perf_counter() - began, processor_time(client) - before
    if page is not None:
        page.close()
        sleep(FORGETTING)
    return found


def report(took):
    """Print medians and ratios."""
    first = [median(values) for values in zip(*took["without"], strict=True)]
    for mode, values in took.items():
        wall, processor = zip(*values, strict=True)
        print(
            f"{mode:<11} wall {median(wall):7.2f} s ({min(wall):.2f}-{max(wall):.2f}), x {median(wall) / first[0]:.3f}   "
            f"processors {median(processor):7.2f} s ({min(processor):.2f}-{max(processor):.2f}), "
            f"x {median(processor) / first[1]:.3f}"
        )


if __name__ == "__main__":
    main()
