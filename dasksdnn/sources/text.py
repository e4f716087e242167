"""Coordinate text (two indices and a value a line), read fast and in bounded memory, every fault named by its line.

    file --(gzip)--> chunk of whole lines --> skeleton test --> scipy.io.mmread --> (first, second, value)
                                                  | odd
                                                  v
                                          exact scan, line by line: a named fault, or plain lines

SciPy's Matrix Market reader is about ten times as fast as `numpy.loadtxt`, but it ignores whatever follows the third
number of a line. So a chunk goes to it only if its skeleton, which is the text without its digits, proves that each
line is exactly three numbers.
"""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.files import CHUNK, quote, read_lines

#: Indices that a file may hold where the caller states no limit.
MAX_INDEX = 2**31 - 1

_PLAIN = re.compile(rb"[\t ][\t ]-?\.?(?:[eE][-+]?)?")
_NUMBER = re.compile(rb"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# What a byte is, for the few bytes where the skeleton does not tell enough. A point counts as a digit.
_DIGIT, _GAP, _SIGN, _E = range(1, 5)
_CLASS = np.zeros(256, np.uint8)
for _bytes, _class in ((b"0123456789.", _DIGIT), (b"\t \n", _GAP), (b"-+", _SIGN), (b"eE", _E)):
    _CLASS[list(_bytes)] = _class
_IS_MARK = (_CLASS >= _SIGN).tobytes()

# Older versions of SciPy have no such option, and 1.18 warns where it is not given.
_AS_ARRAY = {"spmatrix": False} if "spmatrix" in inspect.signature(scipy.io.mmread).parameters else {}

Triplets = tuple[Array, Array, Array]


def read_triplets(
    path: str | os.PathLike[str],
    *,
    limits: tuple[int, int] = (MAX_INDEX, MAX_INDEX),
    names: tuple[str, str] = ("row", "column"),
    dtype: npt.DTypeLike = np.float64,
    skip: int = 0,
    chunk_bytes: int = CHUNK,
) -> Iterator[Triplets]:
    """Read lines of two 1-based indices and a value, separated by tabs or spaces.

    Parameters
    ----------
    path : path
        Plain text, or gzip where the name ends in .gz.
    limits : (int, int)
        The largest index allowed in the first and in the second field.
    names : (str, str)
        What the two indices are, for messages.
    dtype : numpy dtype
        Of the values: float64 or float32.
    skip : int
        Header lines to pass over.
    chunk_bytes : int
        Text parsed at a time; peak memory is about six times that.

    Yields
    ------
    first, second : ndarray of int32 or int64
        Indices, 0-based, in the file's order.
    value : ndarray of `dtype`

    Raises
    ------
    InputError
        Naming the line, for anything but three numbers in a line, an index that is 0 or beyond its limit, a value
        that is not finite; and naming the file, where it is missing, empty, unreadable or truncated. Spaces for tabs,
        CRLF, blank lines at the end and a missing last newline are accepted.
    """
    parser = _Parser(str(path), limits, names, np.dtype(dtype))
    left = skip
    for piece in read_lines(path, chunk_bytes):
        body = piece
        if left:
            header = [m.end() for m, _ in zip(re.finditer(b"\n", body), range(left), strict=False)]
            body, left, parser.line = body[header[-1] :], left - len(header), parser.line + len(header)
        if body:
            triplets = parser.parse(body)
            if triplets[0].size:
                yield triplets
    if parser.line == skip + 1 or parser.blank == skip + 1:
        raise InputError(f"{path}: is empty; expected lines of {names[0]}, {names[1]} and value")


def read_all_triplets(path: str | os.PathLike[str], **options: Any) -> Triplets:
    """`read_triplets` in one piece: in memory are the result and, for a moment, a third of it again."""
    columns = [list(column) for column in zip(*read_triplets(path, **options), strict=True)]
    first, second, value = (np.concatenate(columns.pop(0)) for _ in range(3))
    return first, second, value


def read_market(source: Any) -> Any:
    """`scipy.io.mmread`, as a sparse array where this SciPy can."""
    return scipy.io.mmread(source, **_AS_ARRAY)


class _Parser:
    """Parses chunk after chunk of one file, and knows which line it is at."""

    def __init__(self, path: str, limits: tuple[int, int], names: tuple[str, str], dtype: np.dtype[Any]) -> None:
        self.path, self.limits, self.names, self.dtype = path, limits, names, dtype
        self.line = 1
        self.blank = 0  # the first of the blank lines seen last, which must stay the file's last

    def parse(self, body: bytes) -> Triplets:
        lines = body.count(b"\n")
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        triplets = None
        if not self.blank and _is_plain(body, lines):
            triplets = self._fast(body, lines)
        if triplets is None:
            clean = self._scan(body)
            triplets = self._fast(clean, clean.count(b"\n"))
        if triplets is None:
            raise InputError(f"{self.path} line {self.line}: this line or one of the next {lines} cannot be parsed")
        self._check_finite(triplets[2], body)
        self.line += lines
        return triplets

    def _fast(self, body: bytes, lines: int) -> Triplets | None:
        """What SciPy makes of `body`; None where it refuses, because its line numbers are not ours to quote."""
        if not lines:
            return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, self.dtype)
        header = b"%%%%MatrixMarket matrix coordinate real general\n%d %d %d\n" % (*self.limits, lines)
        try:
            matrix = read_market(io.BytesIO(header + body))
        except (ValueError, OverflowError):
            return None
        with np.errstate(over="ignore"):
            return matrix.row, matrix.col, matrix.data.astype(self.dtype, copy=False)

    def _check_finite(self, values: Array, body: bytes) -> None:
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            text = body.split(b"\n", int(wrong[0]) + 1)[-2].split()[-1]
            self._fail(int(wrong[0]), f"the value {quote(text)} is too large for {self.dtype}")

    def _scan(self, body: bytes) -> bytes:
        """Check line by line; return the lines with single tabs, blank ones at the end left out."""
        clean = []
        for k, line in enumerate(body.split(b"\n")[:-1]):
            fields = line.split()
            if not fields:
                self.blank = self.blank or self.line + k
                continue
            if self.blank:
                raise InputError(f"{self.path} line {self.blank}: is blank, with more lines after it; remove it")
            fault = self._fault(fields)
            if fault:
                self._fail(k, fault)
            clean.append(b"\t".join((fields[0], fields[1], fields[2].removeprefix(b"+"))) + b"\n")
        return b"".join(clean)

    def _fault(self, fields: list[bytes]) -> str | None:
        if len(fields) != 3:
            count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            return f"has {count}; expected 3: {self.names[0]}, {self.names[1]}, value"
        for text, name, limit in zip(fields, self.names, self.limits, strict=False):
            if not text.isdigit():
                return f"the {name} {quote(text)} is not a whole number of at least 1"
            if len(text) > 4000 or int(text) > limit:
                return f"the {name} {quote(text)} is beyond the largest allowed, {limit}"
            if int(text) == 0:
                return f"the {name} is 0; indices count from 1"
        if _NUMBER.fullmatch(fields[2]):
            return None
        kind = fields[2].lower().lstrip(b"+-")
        finite = "not finite" if kind in (b"nan", b"inf", b"infinity") else "not a number"
        return f"the value {quote(fields[2])} is {finite}; remove or replace it"

    def _fail(self, place: int, fault: str) -> None:
        raise InputError(f"{self.path} line {self.line + place}: {fault}")


def _is_plain(body: bytes, lines: int) -> bool:
    """Whether every line is two whole numbers and a decimal number, separated by one tab or space each."""
    skeleton = body.translate(None, b"0123456789")
    first = skeleton[: skeleton.index(b"\n") + 1]
    kinds = {first[:-1]} if skeleton == first * lines else _kinds(skeleton)
    if not all(_PLAIN.fullmatch(kind) for kind in kinds):
        return False
    if not any(mark in kind for kind in kinds for mark in (b"-", b"+", b"e", b"E")):
        return True
    # The skeleton cannot tell 5- from -5, nor 1e from 1e5: look beside each sign and each e.
    text = np.frombuffer(body, np.uint8)
    marks = np.flatnonzero(np.frombuffer(body.translate(_IS_MARK), np.bool_))
    mark, before, after = (_CLASS[text[marks + step]] for step in (0, -1, 1))
    sound = np.where(mark == _E, (after == _DIGIT) | (after == _SIGN), (before == _GAP) | (before == _E))
    return bool(sound.all()) and not (after == _GAP).any()


def _kinds(skeleton: bytes) -> set[bytes]:
    """The distinct lines, found a piece at a time: a Python object for each line of a chunk would be large."""
    kinds: set[bytes] = set()
    start = 0
    while start < len(skeleton):
        stop = skeleton.index(b"\n", min(start + (1 << 18), len(skeleton) - 1)) + 1
        kinds.update(skeleton[start : stop - 1].split(b"\n"))
        start = stop
    return kinds
