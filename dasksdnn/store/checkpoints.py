"""Checkpoints: training gives a store new values as a new generation, which counts once the manifest is replaced.

    parts/0000/0000/state-000006/    data, bias, moments    1. written and synced beside those of generation 5
    checkpoints/000005, 000006       the manifests          2. what stands here stays open when the manifest is replaced
    manifest                         5 -> 6                 3. replaced in one step: now generation 6 counts
    checkpoints/, parts/             - 4                    4. what no kept manifest names is removed

Whatever stops this before step 3 leaves generation 5; what was written for 6 is removed at once or, where the process was
killed, by the next commit.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dasksdnn.atomic import drain, remove, storage_error, sync, sync_path
from dasksdnn.errors import DaskSDNNError, InputError, StoreError
from dasksdnn.network import Array
from dasksdnn.store.encoding import brief, write_array
from dasksdnn.store.layout import (
    CHECKPOINTS,
    CHUNK,
    STATE,
    STRUCTURE,
    checkpoint_path,
    generation_path,
    state_path,
)
from dasksdnn.store.locating import generations
from dasksdnn.store.manifest import Manifest, Window, misfit, read_manifest, resembled
from dasksdnn.store.objects import read_group
from dasksdnn.store.reader import Store, open_store
from dasksdnn.store.sweeping import named, prune, sweep
from dasksdnn.store.verify import layer_at

__all__ = ["Values", "changing", "commit", "generations", "replace_manifest", "write_state", "writing"]

#: Gives one flat array of a window by name: of data, bias, or a moment.
Values = Callable[[Window, str], Array]

#: Of `flock`: this file system has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def commit(
    store: Store,
    values: Values,
    *,
    extra: Collection[str] = (),
    training: dict[str, Any] | None = None,
    keep: int = 2,
    protect: Collection[int] = (),
) -> Store:
    """Make new values of every window the store's newest generation.

    Nothing counts until all of it is safe on the disk; whatever ends this early leaves the store as it was, or, where it
    comes while old generations are removed, with the new one. Hold `writing` meanwhile. Who reads a generation that is
    removed finds it gone.

    Parameters
    ----------
    store : Store
        Opened at its newest generation.
    values : callable (Window, str) -> flat array
        New values of "data", "bias" and each of `extra`, of the same size and the store's dtype. It is asked for one
        array at a time; writing random float32 values takes about 2.2 times an array's bytes beside the array.
    extra : collection of str
        Moments to keep, named for what they belong to: `data_NAME` and `bias_NAME`.
    training : dict, optional
        Where training stands, in JSON's types.
    keep : int
        Generations that stay, the new one included.
    protect : collection of int
        Others that stay; those that are not there any more are ignored.

    Returns
    -------
    Store
        The store, opened anew.

    Raises
    ------
    InputError
        A value is not finite, an array does not fit, or an argument is not usable.
    StoreError
        The disk is full, there is no permission, or the store has changed since it was opened.
    """
    _check_arguments(extra, training, keep)
    with changing(store) as generation:
        windows = [write_state(store, window, generation, values, extra) for window in store.iter_windows()]
        return replace_manifest(store, windows, training=training, keep=keep, protect=protect)


@contextmanager
def changing(store: Store) -> Iterator[int]:
    """Give the number of a new generation to write; what the block wrote is removed where it fails.

    Inside, write new states and new windows, then `replace_manifest`. Hold `writing` meanwhile: what another process has
    not committed yet would be taken for what a killed one left.

    Raises
    ------
    StoreError
        The store has changed since it was opened; or, for an OSError in the block, what the system says and what to do.
    """
    _check_newest(store)
    try:
        kept = sweep(store.path)
        yield 1 + max(store.generation, *(w.generation for manifest in kept for w in manifest.windows))
    except BaseException as error:
        drain()
        with suppress(OSError, StoreError):
            sweep(store.path)
        if isinstance(error, OSError) and not isinstance(error, (DaskSDNNError, BrokenPipeError)):
            raise storage_error(store.path, error) from error
        raise


def replace_manifest(
    store: Store,
    windows: Iterable[Window],
    *,
    training: dict[str, Any] | None = None,
    keep: int = 2,
    protect: Collection[int] = (),
) -> Store:
    """Make windows that are written the store's newest generation, then remove what is not kept.

    A window may be one of a kept generation as it is, one in a new state, or one of a new number with a structure of its
    own; where the pattern is another, the attributes of the store's manifest must say its `edges` and `partition`.
    Parameters, result and errors are those of `commit`; call it in `changing`.
    """
    root = store.path
    _check_arguments((), training, keep)
    _check_newest(store)
    ordered = tuple(sorted(windows, key=lambda w: (w.part, w.number)))
    attributes, owner = store.manifest.attributes, store.manifest.owner
    manifest = Manifest(store.generation + 1, attributes, owner, ordered, _as_json(training))
    read_manifest(manifest.as_json(), read_group(store.location, ""), root)  # refuses what could not be opened again
    for path in sorted(named([manifest]) - named([store.manifest])):
        sync(root / path)
        sync_path((root / path).parent)
    content = _group(manifest.as_json())
    _put(root / CHECKPOINTS, _group({}))
    _put(root / checkpoint_path(store.generation), (root / "manifest" / "zarr.json").read_bytes())
    _put(root / checkpoint_path(manifest.generation), content)
    sync_path(root / CHECKPOINTS)
    sync_path(root)
    _put(root / "manifest", content)
    prune(root, keep, protect)
    return open_store(root)


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Keep other processes from training the same store; the lock goes with this process, however it ends.

    Readers are not kept out. Where the file system has no locks, there is none.

    Raises
    ------
    StoreError
        Another process is training the store, or has changed it since it was opened; or it may not be written.
    """
    try:
        # Open to write: some network file systems lock nothing else.
        descriptor = os.open(store.path / "zarr.json", os.O_RDWR)
    except OSError as error:
        raise storage_error(store.path, error) from error
    try:
        _lock(descriptor, store.path)
        _check_newest(store)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"{path}: another process is training this store: wait for it, or stop it") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise storage_error(path, error) from error


def _check_newest(store: Store) -> None:
    """Refuse to replace what the caller has not seen."""
    newest = open_store(store.path)
    if newest.digest != store.digest:
        raise StoreError(
            f"{store.path} is not what was opened (then generation {store.generation}, now {newest.generation}): open it anew"
        )


def _check_arguments(extra: Collection[str], training: dict[str, Any] | None, keep: int) -> None:
    """Refuse what cannot be committed, before anything is written."""
    if keep < 1:
        raise InputError(f"keep {keep} is not usable: at least 1 generation stays, the new one")
    for name in extra:
        if not (resembled(name) and name.isidentifier() and name.isascii()):
            raise InputError(
                f"array {name!r} is not usable: name it data_NAME or bias_NAME, in letters, digits and '_'"
            )
    _as_json(training)


def _as_json(training: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a reader of the JSON will see: string keys, lists."""
    if training is None:
        return None
    try:
        read = json.loads(json.dumps(training, allow_nan=False))
        if isinstance(read, dict):
            return read
        raise TypeError(f"it is a {type(training).__name__}, not a dict")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the state of training cannot be kept as JSON ({brief(error)}): use dicts, lists, strings, finite numbers"
        ) from error


def write_state(store: Store, window: Window, generation: int, values: Values, extra: Collection[str]) -> Window:
    """Write the new state of a window, holding one array at a time; what it is counts where a manifest names it.

    Several processes may write windows of a generation, each its own, inside one `changing`. Parameters and errors are
    those of `commit`.
    """
    location = zarr.storage.LocalStore(store.path)
    remove(store.path / generation_path(window.part, window.number, generation))  # of a writer that was killed
    arrays = {name: window.arrays[name] for name in STRUCTURE}
    for name in (*STATE, *extra):
        path = state_path(window.part, window.number, generation, name)
        arrays[name] = write_array(location, path, _checked(store, window, name, values(window, name)))
    return replace(window, generation=generation, arrays=arrays)


def _checked(store: Store, window: Window, name: str, values: Array) -> Array:
    """An array that fits and is finite."""
    flat = np.asarray(values).reshape(-1)
    place = f"{store.path}: part {window.part}, window {window.number}, array {name!r}"  # of no generation as yet
    if what := misfit(window, name, flat.size, flat.dtype.name):
        raise InputError(f"{place} {what}")
    for start in range(0, flat.size, CHUNK):
        finite = np.isfinite(flat[start : start + CHUNK])
        if not finite.all():
            layer = layer_at(window, store.extents(window), name, start + int(finite.argmin()))
            raise InputError(
                f"{place}, layer {layer}: a value is NaN or infinite, so nothing is kept: train with a lower learning rate"
            )
    return flat


def _group(attributes: dict[str, Any]) -> bytes:
    record = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    return json.dumps(record, indent=2, allow_nan=False).encode()


def _put(folder: Path, content: bytes) -> None:
    """Make `content` a group's zarr.json, in one step and safe on the disk; what it is already is not touched."""
    folder.mkdir(exist_ok=True)
    target, temporary = folder / "zarr.json", folder / ".zarr.json.partial"
    if not target.is_file() or target.read_bytes() != content:
        try:
            temporary.write_bytes(content)
            sync_path(temporary)
            os.replace(temporary, target)
        except BaseException:
            remove(temporary)
            raise
    sync_path(folder)
