"""Temporary directories that vanish on close and at exit, so that a spooled dataset never outlives its process."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dasksdnn.errors import InputError


class Scratch:
    """A new directory under `where` (None: the system's place for temporary files).

    It is removed by `close`, when the object is collected, or at exit, by the process that made it alone: a copy that
    was pickled to a worker on the same machine reads the files but does not own them.
    """

    def __init__(self, where: str | os.PathLike[str] | None, label: str) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=f"dasksdnn-{label}-", dir=where))
        except OSError as error:
            raise InputError(f"scratch: {where}: {error.strerror}; name a directory that can be written") from None
        self._remove: Any = weakref.finalize(self, _remove, self.path, os.getpid())

    def close(self) -> None:
        """Remove the directory and all in it; harmless when it is gone."""
        if self._remove is not None:
            self._remove()

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path, self._remove = path, None

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Remove the directory if what fills it fails, and say so where the disk is to blame."""
        try:
            yield
        except OSError as error:
            self.close()
            raise InputError(
                f"scratch: {self.path.parent}: {error.strerror}; name a roomier directory as scratch"
            ) from None
        except BaseException:
            self.close()
            raise


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child, which exits first
        shutil.rmtree(path, ignore_errors=True)
