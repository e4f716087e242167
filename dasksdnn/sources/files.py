"""Files opened, read by lines and blamed by name: what goes wrong with a file is worded here, once."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksdnn.errors import InputError

#: Bytes of text that are read at a time.
CHUNK = 16 << 20

_LONGEST_LINE = 1 << 20


@contextmanager
def naming_faults(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` into an `InputError` of one line that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, not a file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it; check the file's mode and owner") from None
    except EOFError:
        raise InputError(f"{path}: the gzip data end too early: truncated? Fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: is not a sound gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def open_bytes(path: str | os.PathLike[str]) -> Any:
    """Open a file for reading bytes, through gzip where its name ends in .gz."""
    with naming_faults(path):
        raw = open(path, "rb", buffering=1 << 17)  # noqa: SIM115  # the caller closes it
        # A buffer of our own: gzip.open would ask the system for 8 KiB at a time on Python 3.11.
        return _Gzip(raw) if str(path).lower().endswith(".gz") else raw


class _Gzip(gzip.GzipFile):
    """A gzip reader that also closes the file it was given."""

    def __init__(self, raw: Any) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()


def read_lines(path: str | os.PathLike[str], chunk_bytes: int = CHUNK) -> Iterator[bytes]:
    """Yield a file's bytes in pieces of whole lines, each ended by a newline, of about `chunk_bytes`."""
    rest, line = b"", 1
    with open_bytes(path) as file:
        while True:
            with naming_faults(path):
                piece = file.read(chunk_bytes)
            if not piece:
                break
            cut = piece.rfind(b"\n") + 1
            if not cut:
                rest += piece
                if len(rest) > _LONGEST_LINE:
                    raise InputError(f"{path} line {line}: longer than {_LONGEST_LINE:,} bytes; is this a text file?")
                continue
            whole = rest + piece[:cut]
            line, rest = line + whole.count(b"\n"), piece[cut:]
            yield whole
    if rest:
        yield rest + b"\n"


def quote(text: bytes) -> str:
    """A piece of a file as a short text for a message."""
    shown = text.decode("utf-8", "backslashreplace")
    return repr(shown if len(shown) <= 40 else shown[:37] + "...")


def read_integers(path: str | os.PathLike[str], name: str, minimum: int = 0) -> npt.NDArray[np.int64]:
    """Read one whole number a line, blank lines at the end allowed.

    Raises
    ------
    InputError
        Naming the line, for anything else, a number below `minimum` included.
    """
    lines = b"".join(read_lines(path)).rstrip().split(b"\n")
    numbers = np.empty(len(lines), np.int64)
    for k, line in enumerate(lines):
        text = line.strip()
        if not re.fullmatch(rb"-?[0-9]{1,18}", text) or int(text) < minimum:
            if lines == [b""]:
                raise InputError(f"{path}: is empty; expected a {name} a line")
            fault = f"the {name} {quote(text)} is not a whole number of at least {minimum}"
            raise InputError(f"{path} line {k + 1}: {fault}")
        numbers[k] = int(text)
    return numbers
