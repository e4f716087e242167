"""A command from outside: its memory as the operating system counts it, its children, the files it has begun."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

MIB = 1 << 20


def told(said):
    """Lines on stderr but those of progress, which a slow machine shows: "write: 18 of 24 layers"."""
    return [line for line in said.splitlines() if not re.match(r"\w+: \d+ of \d+ ", line)]


def watch(process):
    """The most memory that Linux saw the process hold (its rusage would count what pytest held when it forked)."""
    peak = 0
    while process.poll() is None:
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            peak = max(peak, int(fields.get("VmHWM", "0 kB").split()[0]) * 1024)
        time.sleep(0.005)
    return peak


def children(process):
    """Its child processes, whichever of its threads started them."""
    found = []
    with suppress(OSError):
        for listed in Path(f"/proc/{process.pid}/task").glob("*/children"):
            found += [int(n) for n in listed.read_text().split()]
    return found


def is_alive(pid):
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def partial(folder):
    """Files that a writer has begun beside its target."""
    return [p for hidden in folder.glob(".*.partial") for p in hidden.rglob("*") if p.is_file()]


def check(found, peak):
    plan = found["plan"]
    assert peak <= plan["projected_bytes"] <= plan["budget_bytes"]
    # Counted from outside as from inside.
    assert abs(found["peak_rss_bytes"] - peak) < 2 * MIB
