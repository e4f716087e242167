"""What this machine and process may use: processors, memory, caches. Limits of containers and affinity count."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

_STATUS = Path("/proc/self/status")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def threads() -> int:
    """Processors that this process may use: affinity and the quota of its cgroups respected."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text().split())  # "max" is no number: no limit
            count = min(count, -(-quota // period))
        with suppress(OSError, ValueError):
            quota = int((folder / "cpu.cfs_quota_us").read_text())
            if quota > 0:
                count = min(count, -(-quota // int((folder / "cpu.cfs_period_us").read_text())))
    return max(1, count)


def memory_available() -> int:
    """Bytes that this process could still take without swapping: the machine's, or its cgroups' where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _cgroups("memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):
                allowed, held = (int((folder / name).read_text()) for name in (limit, used))
                free = min(free, allowed - held + _reclaimable(folder / "memory.stat", cached))
    return max(0, free)


def _reclaimable(path: Path, field: str) -> int:
    """Bytes of cached files, which count as used but give way."""
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(field + " "):
                return int(line.split()[1])
    return 0


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of the cgroups that bound this process, the innermost first: version 2, then version 1."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _MEMBERSHIP.read_text().splitlines()
    for line in [*lines, "0::/", f"1:{controller}:/"]:  # in a container, its own cgroup may be mounted as the root
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        place = PurePosixPath(path.lstrip("/"))
        yield from (root / folder for folder in (place, *place.parents))


def resident() -> int:
    """Bytes of memory that this process holds now, as the operating system counts them."""
    value = _status("VmRSS")
    if value is None:
        import psutil

        value = int(psutil.Process().memory_info().rss)
    return value


def peak_resident() -> int:
    """The most bytes that this process has held since it started, as the operating system counts them."""
    value = _status("VmHWM")
    if value is None:
        unit = 1 if sys.platform == "darwin" else 1024
        value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return value


def _status(field: str, path: Path | None = None) -> int | None:
    with suppress(OSError, ValueError):
        for line in (path or _STATUS).read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


#: Child processes that run at a time, at most (see partition/start.py).
CHILDREN = 3
_children: list[int] = []


def note_child(process: int) -> None:
    """Remember the most memory that a child process has held; call it before the child ends."""
    _children.append(_status("VmHWM", Path(f"/proc/{process}/status")) or 0)
    _children.sort(reverse=True)
    del _children[CHILDREN:]


def peak_resident_tree() -> int:
    """The most that this process has held, plus what the largest of its children have, as many as run at a time."""
    return peak_resident() + sum(_children)


@cache
def caches() -> tuple[int, int]:
    """Bytes of one core's second-level cache, and of the last-level cache that cores share (1 and 8 MiB where the system does not tell)."""
    second = _cache_bytes(2, "SC_LEVEL2_CACHE_SIZE") or 1 << 20
    return second, max(second, _cache_bytes(3, "SC_LEVEL3_CACHE_SIZE") or 8 << 20)


def _cache_bytes(level: int, name: str) -> int:
    with suppress(OSError, ValueError):
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text().strip()
        return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0)
    with suppress(OSError, ValueError):
        return os.sysconf(name)
    return 0


def parse_bytes(text: str | int | None) -> int | None:
    """Read "512MiB", "4 GiB", "2e9" and the like; None stays None.

    Raises
    ------
    InputError
        For anything that is not a positive amount of memory.
    """
    from dask.utils import parse_bytes as parse

    from dasksdnn.errors import InputError

    if text is None:
        return None
    try:
        if isinstance(text, str) and not any(map(str.isdigit, text)):
            raise ValueError("dask would read it as 1")
        value = int(parse(text))
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise InputError(f"memory {text!r} is not an amount: write it as 512MiB or 4GiB") from error
    if value <= 0:
        raise InputError(f"memory {text!r} is not an amount: it must be positive")
    return value


def format_bytes(value: float) -> str:
    """Bytes for people: "512.0 MiB"."""
    amount, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
