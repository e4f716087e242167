"""What the machine gives: processors and memory within the limits of cgroups, and amounts of memory as text."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from dasksdnn import host
from dasksdnn.errors import InputError

PLENTY = 1 << 62


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Call `cgroup("0::/job", {"job/cpu.max": "100000 100000"})`: a machine whose cgroups are these files."""

    def make(membership, files):
        (tmp_path / "membership").write_text(membership + "\n")
        for name, text in files.items():
            path = tmp_path / "cgroups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    monkeypatch.setattr(host, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    return make


@pytest.mark.parametrize(
    ("membership", "files", "count"),
    [
        ("0::/", {}, 64),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        ("0::/slurm/job", {"slurm/cpu.max": "400000 100000", "slurm/job/cpu.max": "max 100000"}, 4),
        ("0::/slurm/job", {"other/cpu.max": "100000 100000"}, 64),
        ("0::/not/mounted", {"cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 64),
        ("4:cpuset:/job", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "100000"}, 64),
        ("nonsense", {"cpu.max": "nonsense"}, 64),
    ],
)
def test_threads(membership, files, count, cgroup):
    cgroup(membership, files)
    assert host.threads() == count


def test_threads_without_cgroups(cgroup):
    assert host.threads() == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_threads_respect_affinity():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from dasksdnn import host; print(host.threads())"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/", {"memory.max": "max", "memory.current": "5000"}, None),
        ("0::/", {"memory.max": "9000", "memory.current": "5000"}, 4000),
        ("0::/", {"memory.max": "9000", "memory.current": "9500"}, 0),
        (
            "0::/a/b",
            {
                "a/memory.max": "9000",
                "a/memory.current": "5000",
                "a/memory.stat": "anon 1\ninactive_file 1000",
                "a/b/memory.max": "max",
                "a/b/memory.current": "2000",
            },
            5000,
        ),
        (
            "4:memory:/job",
            {
                "memory/job/memory.limit_in_bytes": "7000",
                "memory/job/memory.usage_in_bytes": "3000",
                "memory/job/memory.stat": "inactive_file 0\ntotal_inactive_file 500",
            },
            4500,
        ),
        ("4:memory:/job", {"memory/memory.limit_in_bytes": "7000", "memory/memory.usage_in_bytes": "3000"}, 4000),
    ],
)
def test_memory_available(membership, files, free, cgroup):
    cgroup(membership, files)
    found = host.memory_available()
    assert found == free if free is not None else found > 1 << 20


def test_peak_rises_and_stays():
    code = (
        "import numpy as np; from dasksdnn import host; before = host.resident(); x = np.ones(1 << 26, np.uint8); "
        "held = host.resident(); del x; print(held - before, host.peak_resident() - before)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    held, peak = map(int, done.stdout.split())
    assert min(held, peak) >= 0.9 * (1 << 26)  # the system counts in batches of pages
    assert peak >= held - (1 << 20)


def test_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "_STATUS", tmp_path / "none")
    assert host.resident() > 1 << 20
    assert host.peak_resident() > 1 << 20


def test_children_count(monkeypatch):
    monkeypatch.setattr(host, "_children", [])
    host.note_child(PLENTY)  # one that is gone
    assert host._children == [0]
    host.note_child(os.getpid())
    assert host._children[0] > 1 << 20
    assert host.peak_resident_tree() == pytest.approx(2 * host.peak_resident(), rel=0.1)
    for _ in range(9):
        host.note_child(os.getpid())
    assert host.peak_resident_tree() == pytest.approx((1 + host.CHILDREN) * host.peak_resident(), rel=0.1)


def test_caches():
    second, last = host.caches()
    assert 1 << 14 <= second <= last <= 1 << 32


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        (5, 5),
        ("512MiB", 512 << 20),
        ("4 GiB", 4 << 30),
        ("2e9", 2 * 10**9),
        ("1.5kB", 1500),
        ("100", 100),
    ],
)
def test_parse_bytes(text, value):
    assert host.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["0", "-5MiB", "much", "5 parsecs", "", "nan", "1e400", "GiB", 0, -1, [5], np.nan])
def test_parse_bytes_refuses(text):
    with pytest.raises(InputError, match="is not an amount"):
        host.parse_bytes(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (512 << 20, "512.0 MiB"), (1 << 52, "4096.0 TiB")],
)
def test_format_bytes(value, text):
    assert host.format_bytes(value) == text
