"""Partitions that took long to make are kept in the cache folder, by what decides them: the pattern and the arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from dasksdnn import keeping
from dasksdnn.errors import InputError
from dasksdnn.network import Network
from dasksdnn.partition import files
from dasksdnn.partition.digests import pattern_digest
from dasksdnn.partition.partition import Partition

#: Partitions that took less are not kept.
LEAST_SECONDS = 1.0
#: Another version of a library gives another partition.
_LIBRARIES = ("mtkahypar", "kahypar", "pymetis", "scipy")


def cached(net: Network, key: Mapping[str, object], make: Callable[[], Partition]) -> Partition:
    """Take a partition from the cache, or make it and keep it where it took long.

    Parameters
    ----------
    net : Network
        Streamed once for its pattern, and once more for the recount of a partition that was kept.
    key : dict
        All that decides the result beside the pattern; values with a stable `repr`.
    make : callable
        Makes the partition.

    Returns
    -------
    Partition
        `reused` tells whether it was kept.
    """
    decides = (pattern_digest(net), sorted(key.items()), [_version(name) for name in _LIBRARIES])
    name = f"partition-{hashlib.sha256(repr(decides).encode()).hexdigest()[:32]}.npz"
    if content := keeping.load(name):
        with suppress(InputError):
            return files.parse(content, net, name)
    made = make()
    if made.seconds > LEAST_SECONDS and not made.notes:  # what a failure left behind is not what is asked for
        keeping.save(name, files.dump(made))
    return made


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
