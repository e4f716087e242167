"""The recipes for clusters with a queue: what their job scripts ask for, and that they name no path of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'dasksdnn[cluster]'")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

DIRECTIVES = {
    "slurm": {
        "#SBATCH -p short",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --mem=65536M",
        "#SBATCH -t 01:30:00",
        "#SBATCH --no-requeue",
        "#SBATCH -A mine",
        "#SBATCH --exclusive",
    },
    "pbs": {
        "#PBS -q short",
        "#PBS -l select=1:ncpus=16:mem=65536mb",
        "#PBS -l walltime=01:30:00",
        "#PBS -r n",
        "#PBS -A mine",
        "#PBS --exclusive",
    },
    "lsf": {
        "#BSUB -q short",
        "#BSUB -n 16",
        '#BSUB -R "span[hosts=1]"',
        '#BSUB -R "rusage[mem=65536MB]"',
        "#BSUB -W 01:30",
        "#BSUB -rn",
        '#BSUB -P "mine"',
        "#BSUB --exclusive",
    },
}
KINDS = sorted(DIRECTIVES)


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import jobqueue

    return jobqueue


@pytest.fixture
def script(recipes):
    """Job script of a recipe; its scheduler listens on the loopback interface alone."""

    def make(kind, *, memory="64GiB", minutes=90, **more):
        with recipes.RECIPES[kind]("short", 16, memory, minutes, interface="lo", **more) as cluster:
            assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
            return cluster.job_script()

    return make


def worker_options(script):
    """The worker's options; those with no value are None."""
    (command,) = (line for line in script.splitlines() if "dask_worker" in line)
    words = command.split()
    assert words[:4] == ["exec", "python", "-m", "distributed.cli.dask_worker"]
    following = [*words[1:], "--"]
    return {
        word: None if after.startswith("--") else after
        for word, after in zip(words, following, strict=True)
        if word.startswith("--")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_job_asks_for(script, kind):
    more = {"project" if kind == "lsf" else "account": "mine", "directives": ["--exclusive"]}
    lines = set(script(kind, **more).splitlines())
    assert lines >= DIRECTIVES[kind]


def test_memory_limit_of_lsf(script):
    # Kilobytes where lsf.conf says nothing else, and not below what is meant.
    (limit,) = re.findall(r"#BSUB -M (\d+)", script("lsf"))
    assert 64 << 20 <= int(limit) <= 1.05 * (64 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_worker_gets(script, kind):
    options = worker_options(script(kind, scratch="/scratch/$USER"))
    assert options["--nthreads"] == "16"
    assert "--nworkers" not in options  # one process
    assert options["--memory-limit"] == "57.60GiB"
    assert options["--local-directory"] == '"$TMPDIR"'
    assert options["--interface"] == "lo"
    assert options["--dashboard-address"] == "127.0.0.1:0"


@pytest.mark.parametrize(("job", "worker"), [("64GiB", "57.60GiB"), ("4GiB", "3.50GiB"), ("2GiB", "1.50GiB")])
def test_a_job_has_room_beside_the_worker(script, job, worker):
    assert worker_options(script("slurm", memory=job))["--memory-limit"] == worker


@pytest.mark.parametrize("minutes", [10, 60, 24 * 60])
def test_workers_leave_before_the_job_ends_and_not_together(script, minutes):
    options = worker_options(script("slurm", minutes=minutes))
    lifetime, stagger = (int(options[name].removesuffix("s")) for name in ("--lifetime", "--lifetime-stagger"))
    assert stagger > 0
    assert lifetime - stagger >= 0.8 * 60 * minutes
    assert lifetime + stagger <= 60 * minutes - 30  # seconds to hand over what it holds


@pytest.mark.parametrize("kind", KINDS)
def test_scratch_is_on_the_node(script, kind, tmp_path):
    """The shell of the script, with the worker's command replaced, sees the folder that was meant."""
    text = script(kind, scratch="$WHERE/of-job", prologue=["WHERE=$BASE"])
    text = re.sub(r"^exec python .*$", 'echo "$TMPDIR $DASK_TEMPORARY_DIRECTORY"', text, flags=re.MULTILINE)
    environment = {"PATH": "/usr/bin:/bin", "BASE": str(tmp_path)}
    done = subprocess.run(["bash", "-eu", "-c", text], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [str(tmp_path / "of-job")] * 2, done.stderr
    assert (tmp_path / "of-job").is_dir()


@pytest.mark.parametrize("kind", KINDS)
def test_no_path_of_this_machine(script, kind):
    text = script(kind)
    paths = set(re.findall(r"(?<![\w.}/])/[\w.-][\w./-]*", text))
    assert paths == {"/usr/bin/env", "/tmp"}
    for own in (sys.executable, sys.prefix, str(Path.cwd()), str(EXAMPLES)):
        assert own not in text


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_shell(kind):
    command = [sys.executable, "-W", "error", str(EXAMPLES / "jobqueue.py"), kind, "--queue", "short"]
    done = subprocess.run([*command, "--interface", "lo", "--cores", "4"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert worker_options(done.stdout)["--nthreads"] == "4"
