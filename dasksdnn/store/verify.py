"""Checking a whole store: every digest, every count, every index, every owner; each fault with its part, layer and array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import CorruptStoreError
from dasksdnn.events import Listener, Progress, announce
from dasksdnn.network import Array
from dasksdnn.store.blocks import RowBlock
from dasksdnn.store.encoding import brief, corrupt
from dasksdnn.store.extents import Extent
from dasksdnn.store.layout import CHECKPOINTS, CHUNK, checkpoint_path
from dasksdnn.store.locating import copies, generations
from dasksdnn.store.manifest import Window, misfit, resembled
from dasksdnn.store.objects import read_group
from dasksdnn.store.panels import panels
from dasksdnn.store.reader import Store, open_store

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


def verify(store: Store | str | Path, *, listener: Listener = announce) -> list[Finding]:
    """Read all of a store and compare it with its manifest and with itself, and all earlier generations that it keeps.

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

    Examples
    --------
    >>> import dasksdnn as sdnn, os, pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = sdnn.save(sdnn.radixnet(64, 2), folder.name + "/net.zarr")
    >>> sdnn.verify(store)
    []
    >>> os.remove(next(pathlib.Path(folder.name).glob("net.zarr/**/data/c/0")))
    >>> [(found.array, found.layer) for found in sdnn.verify(store)]
    [('data', 1)]
    >>> folder.cleanup()
    """
    if not isinstance(store, Store):
        try:
            store = open_store(store)
        except CorruptStoreError as error:
            return [Finding(None, None, None, None, str(error))]
    stores, findings = _generations(store)
    fresh = _fresh(stores)
    done, total = count(1), sum(map(len, fresh))
    for kept, windows in zip(stores, fresh, strict=True):
        findings += _check_groups(kept)
        findings += _check_content(kept, windows, lambda: listener(Progress("verify", next(done), total, "windows")))
    return list(dict.fromkeys(findings))  # generations share structure, whose faults are found in each


def _generations(store: Store) -> tuple[list[Store], list[Finding]]:
    """The store, then the other generations that are kept; and what keeps one from being opened."""
    stores: list[Store] = [store]
    findings: list[Finding] = []
    try:
        others = [number for number in generations(store.path) if number != store.generation]
        findings += _check_copy(store)
    except CorruptStoreError as error:
        return stores, [Finding(None, None, None, None, str(error))]
    for number in others:
        try:
            stores.append(open_store(store.path, number))
        except CorruptStoreError as error:
            findings.append(Finding(None, None, None, None, str(error)))
    return stores, findings


def _check_copy(store: Store) -> Iterator[Finding]:
    """The newest manifest's copy must be one, for it counts once there is a newer."""
    newest = generations(store.path)[-1]
    if newest not in copies(store.path):
        return
    try:
        if read_group(store.location, checkpoint_path(newest)) != read_group(store.location, "manifest"):
            raise ValueError("it is not that of the manifest")
    except (OSError, ValueError) as error:
        what = f"the copy of generation {newest} cannot be used ({brief(error)}); remove {checkpoint_path(newest)}"
        yield Finding(None, None, None, None, f"{store.path}: {what}")


def _fresh(stores: list[Store]) -> list[list[Window]]:
    """The windows of each generation, without those that an earlier one of the list has in the same state."""
    met: dict[tuple[int, int, int], Window] = {}
    fresh = []
    for store in stores:
        windows = {(w.part, w.number, w.generation): w for w in store.iter_windows()}
        fresh.append([window for key, window in windows.items() if met.get(key) != window])
        met |= windows
    return fresh


def _check_content(store: Store, windows: list[Window], tick: Callable[[], None]) -> Iterator[Finding]:
    owner, sound = None, False
    try:
        owner, sound = store.owner, True
    except CorruptStoreError as error:
        yield Finding(None, None, "owner", None, str(error))
    for window in windows:
        found = list(_check_window(store, window, owner))
        sound &= not found
        yield from found
        tick()
    if sound:  # else what follows would only repeat it
        yield from _check_order(store)


def _check_groups(store: Store) -> Iterator[Finding]:
    """Other tools find their way to the arrays by the groups above them."""
    below = [window.path(name) for window in store.iter_windows() for name in window.arrays]
    paths = {"/".join(path.split("/")[:depth]) for path in below for depth in range(1, path.count("/") + 1)}
    paths |= {CHECKPOINTS} if copies(store.path) else set()
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
        if what := misfit(window, name, window.arrays[name].size, window.arrays[name].dtype):
            sound = False
            yield Finding(window.part, window.number, name, None, f"{store.path}: {window.label(name)} {what}")
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
            values = array.read(start, min(start + CHUNK, entry.size))
            if resembled(name) and not np.isfinite(values).all():
                raise corrupt(array.label, "a value is NaN or infinite")
        except CorruptStoreError as error:
            yield Finding(window.part, window.number, name, layer_at(window, extents, name, start), str(error))


def layer_at(window: Window, extents: list[Extent], name: str, element: int) -> int | None:
    """The first layer (1-based) that has elements of an array at or behind `element`, where that is known."""
    name = resembled(name) or name
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
