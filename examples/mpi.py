"""Inference and training among MPI ranks. Each runs this script from top to bottom, and the engine splits the work.

    dasksdnn partition net.zarr --nparts 2 --out net2.zarr
    mpiexec -n 2 python examples/mpi.py net2.zarr x.npy y.zarr classes.npy

The store, samples and outputs are on a file system that all ranks see. With as many parts as ranks, each rank reads and
runs its own part, and they send each other what the partition names; mpi.sbatch, beside this, starts it on a Slurm
cluster. Needs `pip install "dasksdnn[mpi]"`. Use that environment's own mpiexec: another MPI's would start ranks that
know nothing of each other, which the engine refuses.
"""

import argparse
import os
import platform

from mpi4py import MPI

import dasksdnn as sdnn


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="of the network, partitioned; training adds its checkpoints")
    parser.add_argument("x", help="samples: whatever `dasksdnn infer` reads")
    parser.add_argument("out", help="the Zarr array of outputs that is made there")
    parser.add_argument("classes", nargs="?", help="of the samples, from 0 up, in a .npy file: trains the network")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--optimizer", default="adam", help="sgd, momentum, adam or adamw")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    return parser.parse_args()


def tell(*what):
    """Print once, not once a rank."""
    if MPI.COMM_WORLD.rank == 0:
        print(*what, flush=True)


given = arguments()
# All ranks must come to each of these calls: none returns before the others have made it, too.
nodes = MPI.COMM_WORLD.allgather(os.environ.get("SLURMD_NODENAME", platform.node()))
tell(f"{len(nodes)} ranks, on {', '.join(nodes)}")

# The same call at every rank, and the same result: the outputs in `out` are those of all.
result = sdnn.infer(given.store, given.x, out=given.out, engine="mpi")
tell(result)
if result.traffic is not None:  # None: each rank had all parts, and ran its own samples
    for row in (result.traffic.HEADER, *result.traffic.rows()):
        tell("  ".join(cell.rjust(10) for cell in row))

# Each epoch ends with a checkpoint in the store. With resume=True, what was killed goes on, with any number of ranks.
if given.classes is not None:
    how = {name: getattr(given, name) for name in ("epochs", "batch_size", "optimizer", "lr")}
    tell(sdnn.train(given.store, given.x, given.classes, **how, engine="mpi"))
