"""What every rank does for tests/engines/test_mpi.py: all runs of one world, their results left in a folder by rank 0."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np

import dasksdnn as sdnn
from dasksdnn.errors import MemoryBudgetError
from dasksdnn.plan import schedule

TRAININGS = {
    "sgd": {"optimizer": "sgd", "lr": 0.05},
    "adam": {"optimizer": "adam", "lr": 0.01, "clip_norm": 0.5},
    "dropout": {"optimizer": "momentum", "lr": 0.01, "dropout": 0.3},
    "threads": {"optimizer": "adamw", "lr": 0.01, "threads": 2},
    "one at a time": {"optimizer": "sgd", "lr": 0.01, "batch_size": 1, "epochs": 1},
    "samples": {"optimizer": "adam", "lr": 0.01, "strategy": "samples"},
    "patterns": {"optimizer": "adam", "lr": 0.01, "evolve": "rigl", "init": "he"},
}
TWICE = ("adam", "samples")  # to see that the bits are the same
INFERENCES = {
    "rows": {"out": True},
    "categories": {"out": "categories"},
    "threads": {"out": True, "threads": 2},
    "samples": {"out": True, "strategy": "samples"},
}


def main(folder):
    world = MPI.COMM_WORLD
    kept = {"size": world.size}
    for name in ("dying", "lively"):
        for how, options in INFERENCES.items():
            out = folder / f"{name}-{how}-{world.size}.zarr" if options["out"] is True else options["out"]
            trace = folder / f"trace-{world.size}.json" if how == "rows" else None
            result = sdnn.infer(
                folder / f"{name}.zarr", folder / f"{name}.npy", engine="mpi", trace=trace, **{**options, "out": out}
            )
            kept[name, how] = (result.categories, result.traffic, result.computed_edges, result.peak_rss)
    lively = {"store": folder / "lively.zarr", "x": folder / "lively.npy", "engine": "mpi"}
    lively["out"] = folder / f"lively-streaming-{world.size}.zarr"
    held, schedule._settings = schedule._settings, streaming
    result = sdnn.infer(**lively, memory=least_budget(lively))
    schedule._settings = held
    kept["streaming"] = (result.plan.settings, result.peak_rss, result.plan.budget)
    for how, options in TRAININGS.items():
        for turn in (1, 2) if how in TWICE else (1,):
            path = folder / f"train-{how}-{turn}-{world.size}.zarr"
            if world.rank == 0:
                shutil.copytree(folder / "trained.zarr", path)
            world.Barrier()
            settings = {"epochs": 2, "batch_size": 30, "loss": "mse", **options}
            history = sdnn.train(path, folder / "x.npy", folder / "y.npy", engine="mpi", **settings)
            kept["train", how, turn] = history.as_dict()
    if world.rank == 0:
        (folder / f"kept-{world.size}.pickle").write_bytes(pickle.dumps(kept))


ways = schedule._settings


def streaming(*arguments):
    """Only the ways to run that do not keep the weights: a network that does not fit is too large for a test."""
    return (s for s in ways(*arguments) if not s.resident and len(s.slabs) > 1)


def least_budget(run):
    """The smallest budget that an error names, and a little more: the process grows from call to call."""
    try:
        sdnn.infer(**run, memory="1 MiB")
    except MemoryBudgetError as error:
        return MPI.COMM_WORLD.allreduce(error.smallest, MPI.MAX) + (4 << 20)
    raise AssertionError("1 MiB was enough")


if __name__ == "__main__":
    # Here, for the tests that import the tables above must not open MPI's sockets in their process.
    from mpi4py import MPI

    np.seterr(all="raise", under="ignore")
    main(Path(sys.argv[1]))
