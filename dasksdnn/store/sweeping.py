"""Removing generations from a store: only what no manifest that counts names, so that a kill at any moment does no harm.

What was written and never committed is removed by the same rule: no manifest names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from dasksdnn.atomic import remove, sync_path
from dasksdnn.errors import StoreError
from dasksdnn.store.layout import CHECKPOINTS, checkpoint_path, generation_path, window_path
from dasksdnn.store.locating import generations
from dasksdnn.store.manifest import Manifest
from dasksdnn.store.reader import open_store

#: What this module may remove: anything else is a stranger's.
_OURS = re.compile(r"checkpoints/\d{6,}|parts/\d{4,}/\d{4,}(/state-\d{6,})?")


def prune(root: Path, keep: int, protect: Collection[int]) -> None:
    """Remove all generations but the newest `keep` and the protected."""
    for number in set(generations(root)[:-keep]) - set(protect):
        remove(root / checkpoint_path(number))
    sync_path(root / CHECKPOINTS)  # no manifest may outlive what it names
    sweep(root)


def sweep(root: Path) -> list[Manifest]:
    """Remove what no kept manifest names, and return those manifests."""
    numbers = generations(root)
    _remove_others(root, "checkpoints/*/", {checkpoint_path(number) for number in numbers})
    kept = []
    for number in numbers:
        with suppress(StoreError):
            kept.append(open_store(root, number).manifest)
    if len(kept) == len(numbers):  # else it is not known what the damaged one needs
        needed = named(kept)
        _remove_others(root, "parts/*/*/", needed)
        _remove_others(root, "parts/*/*/state-*/", needed)
    return kept


def _remove_others(root: Path, pattern: str, needed: set[str]) -> None:
    for found in root.glob(pattern):
        path = found.relative_to(root).as_posix()
        if _OURS.fullmatch(path) and path not in needed:
            remove(found)


def named(manifests: Iterable[Manifest]) -> set[str]:
    """Paths of the windows and states that manifests name."""
    windows = [window for manifest in manifests for window in manifest.windows]
    states = {generation_path(w.part, w.number, w.generation) for w in windows}
    return states | {window_path(w.part, w.number) for w in windows}
