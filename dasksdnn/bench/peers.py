"""The registry of what can be compared: each library's adapter is a module of its own, imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from dasksdnn.bench.contender import OURS, Contender, Crew, Missing
from dasksdnn.bench.work import Work


@dataclass(frozen=True, slots=True)
class Peer:
    """A library that takes part.

    Attributes
    ----------
    package : str
        To install.
    module : str
        Its adapter: a module with a function `kind(work, crew)` for every kind of work that it does.
    rows : mapping of str to tuple of str
        Names of its contenders, by kind of work.
    """

    package: str
    module: str
    rows: Mapping[str, tuple[str, ...]]


#: This project first, then the peers; by the name that a user gives.
PEERS = {
    OURS: Peer(
        "dasksdnn",
        "ours",
        dict.fromkeys(("forward", "backward", "training", "width1", "parts", "challenge"), (OURS,)),
    ),
    "scipy": Peer(
        "scipy",
        "scipy_peer",
        {"forward": ("SciPy", "SciPy, tiles of 64")}
        | dict.fromkeys(("backward", "training", "width1", "challenge"), ("SciPy",)),
    ),
    "torch": Peer(
        "torch",
        "torch_peer",
        {
            "forward": ("PyTorch CSR", "PyTorch CSR, tiles of 64", "PyTorch dense-masked"),
            "training": ("PyTorch CSR", "PyTorch dense-masked"),
        }
        | dict.fromkeys(("backward", "width1"), ("PyTorch CSR",)),
    ),
    "graphblas": Peer("python-graphblas", "graphblas_peer", dict.fromkeys(("forward", "challenge"), ("GraphBLAS",))),
}


def contenders(name: str, work: Work, crew: Crew) -> list[Contender | Missing]:
    """Everything that one library brings to a piece of work; named as missing where it cannot be imported."""
    peer = PEERS[name]
    if work.kind not in peer.rows:
        return []
    try:
        module = import_module(f"dasksdnn.bench.{peer.module}")
        return list(getattr(module, work.kind)(work, crew))
    except ImportError as error:
        why = f"not installed ({error}): pip install {peer.package}, or dasksdnn[bench] for all"
        return [Missing(row, crew.threads, why) for row in peer.rows[work.kind]]
