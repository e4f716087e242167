"""An unfinished store that can be gone on with: a folder beside the target, with a journal of the windows on the disk.

    .net.zarr.resumable/
      journal   lines of JSON: what is being written, then each layer that was read and each window once it is safe
      store/    becomes net.zarr when it is complete

The journal only grows, and nothing in it is believed: every window that it names is read and compared with its digests.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

import zarr

from dasksdnn.atomic import check_target, remove, replacing, storage_error, sync
from dasksdnn.errors import CorruptStoreError, DaskSDNNError, StoreError
from dasksdnn.store.encoding import CheckedArray
from dasksdnn.store.layout import window_path
from dasksdnn.store.manifest import Window


class Journal:
    """What an unfinished store has, and the file that tells the next process.

    Attributes
    ----------
    layers : list of (activation, edges)
        Of the layers that were read, from the first on.
    windows : list of Window
        Whole and on the disk; those of each part follow one another from layer 0 on.
    """

    def __init__(self, file: BinaryIO, store: Path) -> None:
        self.store = store
        self.layers: list[tuple[str, int]] = []
        self.windows: list[Window] = []
        self._file = file

    def read(self, lines: list[bytes], nparts: int) -> None:
        """Take over what stands behind the first line, and remove from the store whatever is not known to be whole."""
        layers: dict[int, tuple[str, int]] = {}
        named: dict[tuple[int, int], Window] = {}
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # what follows a damaged line is written again
            for record in map(json.loads, lines):
                if "layer" in record:
                    layers[record["layer"]] = (record["activation"], record["edges"])
                else:
                    noted = Window.from_json(record)
                    named[noted.part, noted.number] = noted
        self.layers = [layers[k] for k in takewhile(layers.__contains__, count())]
        for part in range(nparts):
            reached = 0
            for number in count():
                window = named.get((part, number))
                if (
                    not window
                    or window.first != reached
                    or window.last > len(self.layers)
                    or not self._is_whole(window)
                ):
                    break
                self.windows.append(window)
                reached = window.last
        _tidy(self.store, self.windows)

    def add_layer(self, k: int, activation: str, edges: int) -> None:
        """Note what the store's attributes must know of a layer, before any window that holds it."""
        self._append({"layer": k, "activation": activation, "edges": edges})

    def add_window(self, window: Window) -> None:
        """Note a window, once it is safe on the disk."""
        sync(self.store / window_path(window.part, window.number))
        self._append(window.as_json())
        os.fsync(self._file.fileno())

    def _append(self, record: Any) -> None:
        self._file.write(
            json.dumps(record).encode() + b"\n"
        )  # not sorted: the manifest is to be the same byte for byte
        self._file.flush()

    def _is_whole(self, window: Window) -> bool:
        location = zarr.storage.LocalStore(self.store, read_only=True)
        try:
            for name, entry in window.arrays.items():
                array = CheckedArray(location, window.path(name), entry, window.label(name))
                for _ in array.pieces(0, entry.size):
                    pass
        except CorruptStoreError:
            return False
        return True


@contextmanager
def resuming(path: Path, identity: Mapping[str, str], nparts: int, *, overwrite: bool) -> Iterator[Journal]:
    """Give the journal of an unfinished store to write on; the store takes the place of `path` when the block ends.

    Whatever ends the block early leaves folder and journal, and a note on the exception that says how to go on.

    Parameters
    ----------
    path : Path
    identity : dict
        All that decides the store's bytes, by names for people.
    nparts : int
    overwrite : bool
        Replace what stands at `path`.

    Raises
    ------
    StoreError
        What was begun is another store, or another process is writing it.
    OutputExistsError, InputError
        As `replacing` does.
    """
    target = Path(os.path.abspath(path))
    check_target(target, overwrite)
    folder = resumable_folder(target)
    try:
        folder.mkdir(exist_ok=True)
        with open(folder / "journal", "a+b") as file:
            if not _lock(file):
                raise StoreError(f"{path}: another process is writing it, in {folder}: wait for it, or stop it")
            journal = _take_over(file, folder, identity, nparts)
            try:
                with replacing(target, overwrite=overwrite, resumable=journal.store):
                    yield journal
            except BaseException as stop:
                stop.add_note(f"{folder} keeps what is written: go on with --resume (resume=True), or remove it")
                raise
            remove(folder)
    except (DaskSDNNError, BrokenPipeError):
        raise
    except OSError as error:
        raise storage_error(folder, error) from error


def _take_over(file: BinaryIO, folder: Path, identity: Mapping[str, str], nparts: int) -> Journal:
    journal = Journal(file, folder / "store")
    lines = _whole_lines(file)
    _check_identity(lines[:1], identity, folder)
    if not lines:
        remove(journal.store)
        journal._append({"writing": dict(identity)})
    journal.read(lines[1:], nparts)
    return journal


def discard(path: Path) -> None:
    """Remove what an unfinished write of `path` left, unless a process is writing it."""
    folder = resumable_folder(Path(os.path.abspath(path)))
    with suppress(OSError), open(folder / "journal", "r+b") as file:
        if _lock(file):
            remove(folder)


def resumable_folder(target: Path) -> Path:
    """Where an unfinished store is kept."""
    return target.with_name(f".{target.name}.resumable")


def _lock(file: BinaryIO) -> bool:
    """Whether no other process has the journal; the lock goes with this one, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _whole_lines(file: BinaryIO) -> list[bytes]:
    """The journal's lines; one that a kill has torn is cut off."""
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    file.truncate(end)
    return content[:end].splitlines()


def _check_identity(first: list[bytes], identity: Mapping[str, str], folder: Path) -> None:
    """Refuse to go on with what is another store: hours of work are not thrown away for a slip of the hand."""
    if not first:
        return
    begun: Any = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        begun = json.loads(first[0])["writing"]
    if not isinstance(begun, dict):
        raise StoreError(f"{folder}: its journal is damaged: remove the folder, and write the store anew")
    if other := [name for name, value in identity.items() if begun.get(name) != value]:
        raise StoreError(
            f"{folder} was begun with another {other[0]}: give the same as then, or remove the folder to begin anew"
        )


def _tidy(store: Path, windows: list[Window]) -> None:
    """Leave whole windows and sound groups above them, as if the writer had just flushed the last of them."""
    kept = {store / window_path(w.part, w.number) for w in windows}
    parts = {window.parent for window in kept}
    for found in store.glob("parts/*/*/"):
        if found not in kept:
            remove(found)
    for found in store.glob("parts/*/"):
        if found not in parts:
            remove(found)
    for name in ("owner", "manifest"):
        remove(store / name)
    if not parts:
        remove(store)
        return
    for stray in store.rglob("*.partial"):
        remove(stray)
    # These groups are written as the writer goes, and not synced: after a power failure they may be empty.
    location = zarr.storage.LocalStore(store)
    for group in (store, store / "parts", *sorted(parts)):
        (group / "zarr.json").unlink(missing_ok=True)
        zarr.create_group(location, path=str(group.relative_to(store)).removeprefix("."))
