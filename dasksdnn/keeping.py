"""Where compiled kernels and partitions are kept: files of ours that nobody else can write, for these sources and versions.

    base/                        the setting, Numba's own, or the user's cache folder; else one in the temporary folder
      kernels-<digest>/          of the sources of all kernels (they inline each other) and of the versions involved
        <kernel>-<digest>.code   of its types and the processor: a checksum, then the code
        partition-<digest>.npz   of the network's pattern and the arguments: a checksum, then a partition's file
        lock

Kernels are pickled code, so all is loaded only from where no other user can have put it. There is a file for each set
of types and no index: processes that save at once replace equal files, whole, and none can be taken for another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import dasksdnn
from dasksdnn import config

#: A folder of other sources or versions is removed when a new one is made and it was not used for this long.
UNUSED_SECONDS = 30 * 24 * 3600
_FOLDER = re.compile(r"kernels-[0-9a-f]{16}")


@cache
def sources() -> tuple[Path, ...]:
    """The files whose content may end up in compiled kernels."""
    package = Path(__file__).parent
    rooms = (path for room in ("kernels", "partition") for path in sorted((package / room).glob("*.py")))
    return (*rooms, package / "network.py", package / "compiling.py")


@cache
def digest() -> str | None:
    """What compiled code depends on beside its types and the processor; None where that cannot be told."""
    import llvmlite
    import numba
    import numpy as np

    options = [getattr(numba.config, name, None) for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")]
    versions = [dasksdnn.__version__, numba.__version__, llvmlite.__version__, np.__version__, sys.version]
    contents = [content(str(path)) for path in sources()]
    if None in contents or len(contents) < 2:
        return None
    return hashlib.sha256(repr((contents, versions, options)).encode()).hexdigest()[:16]


@cache
def content(path: str) -> str | None:
    """A digest of a file; None where it cannot be read, as in an installation without sources."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def folder() -> Path | None:
    """The folder where what is compiled now will be kept; None where there is none."""
    writable = (place for place in _places(make=True) if os.access(place, os.W_OK | os.X_OK))
    return next(writable, None)


def load(name: str) -> bytes | None:
    """What was saved under a name; None where it is not there, not ours or not whole."""
    for place in _places():
        with suppress(OSError):
            content = _read(place / name)
            checksum, payload = content[:32], content[32:]
            if checksum == _checksum(name, payload):
                with suppress(OSError):
                    os.utime(place)  # what is used is not removed
                return payload
    return None


def save(name: str, payload: bytes) -> None:
    """Keep something where that is possible: a disk may be full, and the next place not."""
    for place in _places(make=True):
        temporary = place / f"{name}.{uuid.uuid4().hex}.partial"
        try:
            # A umask may let a group write new files, and such files would not be loaded.
            with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(_checksum(name, payload) + payload)
            temporary.replace(place / name)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
        else:
            return


def _checksum(name: str, payload: bytes) -> bytes:
    """Of the name too: a file that stands under another's name is not that other."""
    return hashlib.sha256(name.encode() + b"\0" + payload).digest()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if not _is_safe(os.fstat(file.fileno())):
            raise PermissionError(path)
        return file.read()


def _is_safe(status: os.stat_result) -> bool:
    """Whether only this user, or root, can have written it."""
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _places(*, make: bool = False) -> Iterator[Path]:
    """Folders for this digest that are there (or can be made) and safe, the best first."""
    if digest() is None:
        return
    for base in _bases():
        place = base / f"kernels-{digest()}"
        try:
            if make:
                _make(base, place)
            safe = all(stat.S_ISDIR(s.st_mode) and _is_safe(s) for s in (base.lstat(), place.lstat()))
        except OSError:
            continue
        if safe:
            yield place


def _bases() -> Iterator[Path]:
    # Where no home folder is known, or no temporary one can be written, there is one place less.
    with suppress(RuntimeError, OSError):
        yield chosen().resolve()
    with suppress(OSError):
        yield Path(tempfile.gettempdir()) / f"dasksdnn-{os.geteuid()}"


def chosen() -> Path:
    """The folder for compiled kernels: the setting, `NUMBA_CACHE_DIR`, or the user's cache folder.

    Raises
    ------
    RuntimeError
        No home folder is known.
    """
    import numba

    if (setting := config.get("cache")) is not None:
        return Path(str(setting)).expanduser()
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR) / "dasksdnn"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dasksdnn"
    known = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (known if known.is_absolute() else Path.home() / ".cache") / "dasksdnn"


def _make(base: Path, place: Path) -> None:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_safe(base.lstat()) and not place.is_dir():
        place.mkdir(mode=0o700, exist_ok=True)
        _remove_unused(base)


def _remove_unused(base: Path) -> None:
    """Remove folders of other digests that are long unused; who uses one still only has to compile again."""
    for old in base.glob("kernels-*"):
        with suppress(OSError):
            status = old.lstat()
            unused = status.st_mtime < time.time() - UNUSED_SECONDS
            if _FOLDER.fullmatch(old.name) and stat.S_ISDIR(status.st_mode) and _is_safe(status) and unused:
                shutil.rmtree(old, ignore_errors=True)
