"""Checking a whole store: every digest, every count, every index, every owner; each fault with its part, layer and array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import CorruptStoreError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.network import Array
from dasksdnn.store.blocks import RowBlock
from dasksdnn.store.encoding import brief
from dasksdnn.store.layout import CHUNK
from dasksdnn.store.manifest import Window
from dasksdnn.store.objects import read_group
from dasksdnn.store.panels import panels
from dasksdnn.store.reader import Extent, Store, open_store

_SPAN = {
    "indptr": "indptr",
    "indices": "entries",
    "data": "entries",
    "rows": "rows",
    "bias": "rows",
    "columns": "columns",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `layer` is 1-based, as people count; None where a fault is not of one layer."""

    part: int | None
    window: int | None
    array: str | None
    layer: int | None
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def verify(store: Store | str | Path, *, listener: Listener = ignore) -> list[Finding]:
    """Read all of a store and compare it with its manifest and with itself.

    Parameters
    ----------
    store : Store or path
    listener : callable
        Told of each window checked.

    Returns
    -------
    list of Finding
        Empty where the store is sound.

    Raises
    ------
    StoreError
        There is no store at all, or it is of a newer version. A damaged one is not raised but found.
    """
    if not isinstance(store, Store):
        try:
            store = open_store(store)
        except CorruptStoreError as error:
            return [Finding(None, None, None, None, str(error))]
    findings = list(_check_groups(store))
    try:
        owner = store.owner
    except CorruptStoreError as error:
        owner = None
        findings.append(Finding(None, None, "owner", None, str(error)))
    windows = list(store.iter_windows())
    sound = owner is not None
    for i, window in enumerate(windows):
        found = list(_check_window(store, window, owner))
        sound &= not found
        findings += found
        listener(Progress("verify", i + 1, len(windows), "windows"))
    if sound:  # else what follows would only repeat it
        findings += _check_order(store)
    return findings


def _check_groups(store: Store) -> Iterator[Finding]:
    """Other tools find their way to the arrays by the groups above them."""
    below = [window.path(name) for window in store.iter_windows() for name in window.arrays]
    paths = {"/".join(path.split("/")[:depth]) for path in below for depth in range(1, path.count("/") + 1)}
    for path in sorted(paths):
        try:
            if read_group(store.location, path):
                raise ValueError("it has attributes, which the format does not know")
        except (OSError, ValueError) as error:
            message = f"{store.path}: group {path!r} cannot be used ({brief(error)}); restore its zarr.json"
            part, window = ([int(name) for name in path.split("/")[1:3]] + [None, None])[:2]
            yield Finding(part, window, None, None, message)


def _check_window(store: Store, window: Window, owner: tuple[Array, ...] | None) -> Iterator[Finding]:
    sound = True
    try:
        extents = store.extents(window)
    except CorruptStoreError as error:
        extents, sound = [], False
        yield Finding(window.part, window.number, "offsets", None, str(error))
    for name in window.arrays.keys() - {"offsets"}:
        for finding in _check_digests(store, window, name, extents):
            sound = False
            yield finding
    if sound and owner is not None:
        try:
            for block in store.blocks(window.part, window.first, window.last):
                yield from _check_block(store, block, owner)
        except CorruptStoreError as error:
            yield Finding(window.part, window.number, None, None, str(error))


def _check_digests(store: Store, window: Window, name: str, extents: list[Extent]) -> Iterator[Finding]:
    """Go on behind a damaged chunk, so that all of them are named."""
    entry = window.arrays[name]
    try:
        array = store.array(window, name)
    except CorruptStoreError as error:
        yield Finding(window.part, window.number, name, None, str(error))
        return
    for start in range(0, entry.size, CHUNK):
        try:
            array.read(start, min(start + CHUNK, entry.size))
        except CorruptStoreError as error:
            yield Finding(window.part, window.number, name, _layer_at(window, extents, name, start), str(error))


def _layer_at(window: Window, extents: list[Extent], name: str, element: int) -> int | None:
    """The first layer (1-based) that has elements at or behind `element`, where that is known."""
    if not extents or name not in _SPAN:
        return None
    ends = [getattr(extent, _SPAN[name])[1] for extent in extents]
    return window.first + 1 + min(int(np.searchsorted(ends, element, "right")), len(ends) - 1)


def _check_block(store: Store, block: RowBlock, owner: tuple[Array, ...]) -> Iterator[Finding]:
    part, k = block.part, block.layer

    def fault(name: str, what: str) -> Finding:
        return _fault(store, part, k, name, what)

    if not np.array_equal(np.sort(block.rows), np.flatnonzero(owner[k + 1] == part)):
        yield fault("rows", "the rows are not those that 'owner' gives the part")
    if not (np.isfinite(block.data).all() and np.isfinite(block.bias).all()):
        yield fault("data", "a value is NaN or infinite")
    row = np.repeat(np.arange(block.rows.size), np.diff(block.indptr))
    key = row * np.int64(max(1, block.columns.size)) + block.indices
    if (np.diff(key) <= 0).any():
        yield fault("indices", "positions do not rise within a row")


def _check_order(store: Store) -> Iterator[Finding]:
    """Check the order of every input panel, and that what the parts exchange is what the store says of itself."""
    volume = 0
    for panel in panels(store):
        received, faults = panel.received()
        volume += sum(ids.size for ids in received)
        for part, what in faults:
            yield _fault(store, part, panel.layer, "columns", what)
    edges = sum(window.arrays["data"].size for window in store.iter_windows())
    for name, said, found in (
        ("edges", store.edges, edges),
        ("volume", store.provenance.get("volume", volume), volume),
    ):
        if said != found:
            yield Finding(None, None, None, None, f"{store.path}: {name} is {found}, the attributes say {said}")


def _fault(store: Store, part: int, layer: int, name: str, what: str) -> Finding:
    return Finding(part, store.window(part, layer).number, name, layer + 1, str(store.fault(part, layer, name, what)))
