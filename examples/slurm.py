"""Inference on a Slurm cluster, through dask-jobqueue: start it on a login node, or in a job of its own.

    python examples/slurm.py --store /shared/net.zarr --x /shared/x.npy --out /shared/y.zarr \\
        --queue QUEUE --jobs 4 --cores 16 --memory 64GiB --minutes 120 --interface ib0 \\
        --scratch '/local/$USER' --prologue 'source ~/envs/sdnn/bin/activate'

The store, samples and outputs are on a file system that all nodes see. Nodes may be lost, and jobs may end: what they were
at is done again by those that are left, and Slurm is asked for others. For PBS or LSF, take the other recipes of
jobqueue.py, beside this.
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
    parser.add_argument("--store", type=shared_path, required=True)
    parser.add_argument("--x", type=shared_path, required=True, help="samples: whatever `dasksdnn infer` reads")
    parser.add_argument("--out", type=shared_path, required=True, help="the Zarr array of outputs that is made there")
    job = parser.add_argument_group("jobs")
    job.add_argument("--queue", required=True, help="partition")
    job.add_argument("--jobs", type=int, default=2)
    job.add_argument("--cores", type=int, default=16, help="of a job")
    job.add_argument("--memory", default="64GiB", help="of a job")
    job.add_argument("--minutes", type=int, default=60, help="time limit of a job")
    job.add_argument("--interface", help="network interface of the nodes, such as ib0")
    job.add_argument("--scratch", default="${TMPDIR:-/tmp}", help="node-local folder, as the job's shell sees it")
    job.add_argument("--prologue", action="append", default=[], help="line of shell before Python starts")
    job.add_argument("--log-directory", help="of the jobs, on the shared file system")
    return vars(parser.parse_args())


def main():
    given = arguments()
    store, x, out, jobs = (given.pop(name) for name in ("store", "x", "out", "jobs"))
    with slurm_cluster(**given) as cluster, Client(cluster) as client, progress() as listener:
        print(f"dashboard: {cluster.dashboard_link}", flush=True)
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # as many again where some are lost
        client.wait_for_workers(jobs)  # or 1: those that start later join in
        nodes = client.run(os.getenv, "SLURMD_NODENAME").values()
        print(f"{len(nodes)} workers, on {', '.join(sorted(nodes))}", flush=True)
        print(sdnn.infer(store, x, out=out, client=client, listener=listener), flush=True)


if __name__ == "__main__":
    main()
