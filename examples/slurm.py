"""Inference and training on a Slurm cluster, through dask-jobqueue: start it on a login node, or in a job of its own.

    python examples/slurm.py infer --store /shared/net.zarr --x /shared/x.npy --out /shared/y.zarr \\
        --queue QUEUE --jobs 4 --cores 16 --memory 64GiB --minutes 120 --interface ib0 \\
        --scratch '/local/$USER' --prologue 'source ~/envs/sdnn/bin/activate'
    python examples/slurm.py train --store /shared/net.zarr --x /shared/x.npy --classes /shared/classes.npy --epochs 10 ...

The store, samples and outputs are on a file system that all nodes see. Nodes may be lost, and jobs may end: what they were
at is done again by those that are left (training goes on from its last checkpoint), and Slurm is asked for others. For
PBS or LSF, take the other recipes of jobqueue.py, beside this.
"""

import argparse
import os
from pathlib import Path

from distributed import Client
from jobqueue import slurm_cluster

import dasksdnn as sdnn
from dasksdnn.diagnostics.progress import progress


def shared_path(text):
    """A path as the workers can use it, wherever they are started."""
    return Path(text).absolute()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = parser.add_subparsers(dest="work", required=True)
    infer = work.add_parser("infer", help="run samples through the network")
    infer.add_argument("--out", type=shared_path, required=True, help="the Zarr array of outputs that is made there")
    train = work.add_parser("train", help="train the network, for classes")
    train.add_argument("--classes", type=shared_path, required=True, help="of the samples, from 0 up, in a .npy file")
    train.add_argument("--epochs", type=int, default=5)
    train.add_argument("--batch-size", type=int, default=256)
    train.add_argument("--optimizer", default="adam", help="sgd, momentum, adam or adamw")
    train.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    for each in (infer, train):
        each.add_argument("--store", type=shared_path, required=True)
        each.add_argument("--x", type=shared_path, required=True, help="samples: whatever `dasksdnn infer` reads")
        job = each.add_argument_group("jobs")
        job.add_argument("--queue", required=True, help="partition")
        job.add_argument("--jobs", type=int, default=2)
        job.add_argument("--cores", type=int, default=16, help="of a job")
        job.add_argument("--memory", default="64GiB", help="of a job")
        job.add_argument("--minutes", type=int, default=60, help="time limit of a job")
        job.add_argument("--interface", help="network interface of the nodes, such as ib0")
        job.add_argument("--scratch", default="${TMPDIR:-/tmp}", help="node-local folder, as the job's shell sees it")
        job.add_argument("--prologue", action="append", default=[], help="line of shell before Python starts")
        job.add_argument("--log-directory", help="of the jobs, on the shared file system")
    return parser.parse_args()


def cluster_of(given):
    """A cluster of `--jobs` jobs, and of as many again where some are lost."""
    names = ("queue", "cores", "memory", "minutes", "interface", "scratch", "prologue", "log_directory")
    cluster = slurm_cluster(**{name: getattr(given, name) for name in names})
    cluster.adapt(minimum_jobs=given.jobs, maximum_jobs=given.jobs)
    return cluster


def run(given, client, listener):
    if given.work == "infer":
        return sdnn.infer(given.store, given.x, out=given.out, client=client, listener=listener)
    how = {name: getattr(given, name) for name in ("epochs", "batch_size", "optimizer", "lr")}
    return sdnn.train(given.store, given.x, given.classes, **how, engine="dask", client=client, listener=listener)


def main():
    given = arguments()
    with cluster_of(given) as cluster, Client(cluster) as client, progress() as listener:
        print(f"dashboard: {cluster.dashboard_link}", flush=True)
        client.wait_for_workers(given.jobs)  # or 1: inference takes in those that start later
        nodes = client.run(os.getenv, "SLURMD_NODENAME").values()
        print(f"{len(nodes)} workers, on {', '.join(sorted(nodes))}", flush=True)
        print(run(given, client, listener))


if __name__ == "__main__":
    main()
