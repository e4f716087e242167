"""Outputs that appear whole or not at all: written under a temporary name beside the target, renamed at the end."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dasksdnn.errors import InputError, OutputExistsError, StoreError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

#: Temporaries that this process is writing: others of its number are those of a process that is gone.
_ours: set[str] = set()

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another place",
    errno.EFBIG: "a file would exceed the size limit: raise it or choose another place",
    errno.EACCES: "no permission: choose another place or change its permissions",
    errno.EPERM: "no permission: choose another place or change its permissions",
    errno.EROFS: "the file system is read-only: choose another place",
}


def check_target(path: Path, overwrite: bool) -> None:
    """Refuse an output path that exists (unless `overwrite`) or has no folder to stand in."""
    if os.path.lexists(path) and not overwrite:
        raise OutputExistsError(f"{path} exists and is kept: choose another name, or say --overwrite (overwrite=True)")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = False, resumable: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path` to write at; it takes the place of `path` when the block ends.

    Whatever ends the block early (an error, Ctrl-C) removes the temporary, file or folder; a killed process leaves one
    behind, which the next writer to the same target removes. The old content of `path` stays until the new is complete
    and on disk. With `resumable`, that is the temporary path, and is left as it is when the block ends early.

    Raises
    ------
    OutputExistsError
        `path` exists and `overwrite` is False, at the start or by the time the new content is ready.
    StoreError
        The disk is full, or there is no permission.
    """
    target = Path(os.path.abspath(path))
    check_target(target, overwrite)
    _remove_leftovers(target)
    temporary = resumable or target.parent / f"{_prefix(target)}{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"
    _ours.add(temporary.name)
    try:
        yield temporary
        sync(temporary)
        _rename(temporary, target, overwrite)
    except (OutputExistsError, BrokenPipeError):
        raise  # a broken pipe is not the target's: who listens to our progress is gone
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if failed := sys.exception():
            drain()
        if not (failed and resumable):
            remove(temporary)
        _ours.discard(temporary.name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def storage_error(path: Any, error: OSError) -> StoreError:
    """Turn a failed write into one line that says what to do."""
    other = f"{type(error).__name__} ({error.strerror or error}): choose another place"
    return StoreError(f"{path}: {_REMEDY.get(error.errno or 0, other)}")


def drain() -> None:
    """Wait for the writes that Zarr's own thread still has under way: neither Ctrl-C nor a failed write stops those."""
    if "zarr" not in sys.modules:  # an owner file, a report: importing it would take longer than all the rest
        return
    from zarr.core.sync import sync as zarr_sync

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    zarr_sync(others())


def _rename(temporary: Path, target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        os.rename(temporary, target)
    elif not overwrite:
        check_target(target, overwrite)
    elif temporary.is_file() and target.is_file():
        os.replace(temporary, target)
    elif not _exchange(temporary, target):
        _rename_in_two_steps(temporary, target)
    sync_path(target.parent)


def _rename_in_two_steps(temporary: Path, target: Path) -> None:
    """Where no atomic exchange is to be had: the old content stands aside for a moment."""
    aside = temporary.with_suffix(".old")
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise
    remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one atomic step, where the system can (Linux); the temporary then holds the old content."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def sync(path: Path) -> None:
    """Have the system write everything below `path` to the disk before the rename makes it count."""
    if path.is_dir():
        for folder, _, files in os.walk(path, topdown=False):
            for name in files:
                sync_path(Path(folder, name))
            sync_path(Path(folder))
    else:
        sync_path(path)


def sync_path(path: Path) -> None:
    """Have the system write one file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}."


def _remove_leftovers(target: Path) -> None:
    """Remove what killed writers of the same target, on this host, left behind."""
    prefix = _prefix(target)
    with suppress(OSError):
        for entry in list(os.scandir(target.parent)):
            if not entry.name.startswith(prefix) or entry.name in _ours:
                continue
            process, _, rest = entry.name[len(prefix) :].partition(".")
            # What was put aside is the only copy of the old content until there is a new one.
            gone = rest.endswith(".partial") or (rest.endswith(".old") and os.path.lexists(target))
            if gone and process.isdigit() and (int(process) == os.getpid() or not _alive(int(process))):
                remove(Path(entry.path))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
