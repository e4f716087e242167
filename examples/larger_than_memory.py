"""Inference over more samples than the memory of a Dask cluster's workers holds.

    python examples/larger_than_memory.py --folder FOLDER                                  # two workers on this machine
    python examples/larger_than_memory.py --folder FOLDER --scheduler tcp://10.0.0.1:8786   # a cluster that sees FOLDER

Samples and outputs take about 3 GiB of disk, with the defaults.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from distributed import Client, LocalCluster

import dasksdnn as sdnn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an existing folder that all workers see")
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--memory", default="640MiB", help="of a worker on this machine")
    parser.add_argument("--scheduler", help="address of a cluster that runs")
    given = parser.parse_args()
    folder = given.folder.absolute()
    with ExitStack() as held:
        cluster = given.scheduler or held.enter_context(
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                memory_limit=given.memory,
                local_directory=str(folder),
                dashboard_address="127.0.0.1:0",
            )
        )
        client = held.enter_context(Client(cluster))
        held.enter_context(sdnn.progress())
        values = da.random.default_rng(0).random((given.samples, 1024), chunks=(2_000, 1024), dtype=np.float32)
        da.to_zarr(values, str(folder / "x.zarr"))  # chunk by chunk: nobody ever holds all of it
        net = sdnn.radixnet(neurons=1024, layers=12)
        store = sdnn.save(net, folder / "net.zarr", partition=sdnn.partition(net, 2, method="metis"))
        result = sdnn.infer(store, folder / "x.zarr", client=client, out=folder / "y.zarr")
    print(result)
    some = slice(given.samples // 2, given.samples // 2 + 200)
    x, y = (zarr.open_array(folder / name, mode="r") for name in ("x.zarr", "y.zarr"))
    assert np.array_equal(y[some], sdnn.infer(store, x[some]).compute())
    assert result.peak_rss <= result.plan.budget
    print(f"{x.nbytes / 2**30:.2f} GiB of samples; a worker held {result.peak_rss / 2**20:.0f} MiB at most")


if __name__ == "__main__":
    main()
