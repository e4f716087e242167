"""Recipes for clusters with a queue: one Dask worker in each job of Slurm, PBS or LSF, set as dasksdnn runs best.

    python examples/jobqueue.py slurm --queue QUEUE --cores 16 --memory 64GiB --minutes 60

prints the job script and submits nothing. Copy the recipe of your queue, or import it, as slurm.py beside this does.
Needs `pip install "dasksdnn[cluster]"`.

- The store, inputs and outputs are on a file system that all nodes see, under the same path. What a worker writes for
  itself goes to node-local scratch: many workers that spill to a shared file system slow it down for everyone.
- One process a job, a thread a core: a run uses all threads of its process, and its memory budget is the process's.
  Nor does Dask replace lost jobs of several processes (distributed issue 9102).
- Where jobs end before the work does, workers leave by themselves a little earlier, not all at once, and others take
  their place: `cluster.adapt(minimum_jobs=N, maximum_jobs=N)` submits a job for each that is gone. Training goes back to
  its last checkpoint when a worker leaves, so ask for as many minutes as it takes where you can.
- A Dask scheduler runs what anyone who reaches it sends. On a network that you share with strangers, pass
  `security=True` and `shared_temp_directory=` (a folder of yours that all nodes see): then all talk is encrypted, and
  needs a certificate.
"""

import argparse

from dask.utils import parse_bytes
from dask_jobqueue import LSFCluster, PBSCluster, SLURMCluster

MIB = 1 << 20


def shared(cores, memory, minutes, *, scratch="${TMPDIR:-/tmp}", prologue=(), python="python", **more):
    """What is the same for all queues.

    Parameters
    ----------
    cores : int
        Of a job, all for one worker.
    memory : str
        Of a job ("64GiB"); the queue ends a job that takes more.
    minutes : int
        The job's time limit.
    scratch : str
        Node-local folder, as the job's shell sees it. Many sites set TMPDIR to one of the job's own.
    prologue : list of str
        Lines of shell that make the nodes' Python the one of here: "module load python", "source ~/envs/sdnn/bin/activate".
    python : str
        By default whatever the prologue puts on the path, so that a job script names no path of the login node.
    more
        Whatever dask-jobqueue's clusters take: interface="ib0", account=, log_directory=, n_workers=...
    """
    lifetime = [
        *("--lifetime", f"{minutes * 54}s"),
        *("--lifetime-stagger", f"{minutes * 3}s"),
    ]  # 54 +- 3 of 60 minutes
    return {
        "cores": cores,
        "processes": 1,
        # The worker's limit. Its nanny and what the system keeps for the job count too, so the job asks for more.
        "memory": f"{worker_memory(memory)}B",
        "local_directory": '"$TMPDIR"',
        "job_script_prologue": [
            *prologue,
            f'export TMPDIR="{scratch}"',
            'export DASK_TEMPORARY_DIRECTORY="$TMPDIR"',
            'mkdir -p "$TMPDIR"',
        ],
        # In the shell's place: a signal to end reaches Dask, which ends in order, and not a shell that leaves it to be killed.
        "python": f"exec {python}",
        # The scheduler's dashboard shows all workers; their own pages need not be open to the network.
        "worker_extra_args": [*lifetime, "--dashboard-address", "127.0.0.1:0"],
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},  # from elsewhere: ssh -L to cluster.dashboard_link
        **more,
    }


def worker_memory(job_memory):
    """Bytes of a job's memory that the worker may use: all but a tenth, and at least 512 MiB."""
    job = parse_bytes(job_memory)
    return job - max(job // 10, 512 * MIB)


def slurm_cluster(queue, cores, memory, minutes, *, directives=(), **more):
    """A `SLURMCluster`; see `shared` for the parameters. `directives` are more options of sbatch ("--exclusive")."""
    return SLURMCluster(
        queue=queue,
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        job_mem=f"{parse_bytes(memory) // MIB}M",
        # Dask submits a job for each that is lost. Were Slurm to requeue it as well, there would be two.
        job_extra_directives=["--no-requeue", *directives],
        **shared(cores, memory, minutes, **more),
    )


def pbs_cluster(queue, cores, memory, minutes, *, directives=(), **more):
    """A `PBSCluster`; see `shared` for the parameters. `directives` are more options of qsub ("-l place=excl")."""
    return PBSCluster(
        queue=queue,
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        resource_spec=f"select=1:ncpus={cores}:mem={parse_bytes(memory) // MIB}mb",
        job_extra_directives=["-r n", *directives],  # not rerun: as for Slurm
        **shared(cores, memory, minutes, **more),
    )


def lsf_cluster(queue, cores, memory, minutes, *, directives=(), **more):
    """An `LSFCluster`; see `shared` for the parameters (`project` for `account`). `directives` are more options of bsub.

    Where your site reserves memory by slot (RESOURCE_RESERVE_PER_TASK in lsf.conf), divide what rusage asks by `cores`.
    """
    job = parse_bytes(memory)
    return LSFCluster(
        queue=queue,
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}",
        mem=job,  # a limit; what the job needs is said by rusage, by which LSF finds it a host
        job_extra_directives=["-rn", f'-R "rusage[mem={job // MIB}MB]"', *directives],  # not rerun: as for Slurm
        use_stdin=True,
        **shared(cores, memory, minutes, **more),
    )


RECIPES = {"slurm": slurm_cluster, "pbs": pbs_cluster, "lsf": lsf_cluster}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--cores", type=int, default=16, help="of a job")
    parser.add_argument("--memory", default="64GiB", help="of a job")
    parser.add_argument("--minutes", type=int, default=60, help="time limit of a job")
    parser.add_argument("--interface", help="network interface of the nodes, such as ib0")
    parser.add_argument("--prologue", action="append", default=[], help="line of shell before Python starts")
    options = vars(parser.parse_args())
    with RECIPES[options.pop("kind")](**options) as cluster:
        print(cluster.job_script())


if __name__ == "__main__":
    main()
