"""Matrices of other libraries and of files as SciPy sparse: headers first, because they are cheap and may lie."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.sources.checks import check_number_dtype
from dasksdnn.sources.files import naming_faults, open_bytes
from dasksdnn.sources.text import read_all_triplets, read_market

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class NpzHeader:
    """What the headers inside an NPZ file of `scipy.sparse.save_npz` tell without loading it."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    format: str
    sizes: dict[str, int]  # bytes of each member once decompressed


def npz_header(path: Path) -> NpzHeader:
    """Read an NPZ file's shape, dtype, format and member sizes; its data stay on the disk."""
    try:
        with naming_faults(path), zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
            if not {"format", "shape", "data"} <= sizes.keys() or sizes["format"] + sizes["shape"] > 1 << 16:
                raise InputError(f"{path}: holds no sparse matrix; write it with scipy.sparse.save_npz")
            with archive.open("data.npy") as member:
                dtype = npy_header(member, path)[1]
        with naming_faults(path), np.load(path, allow_pickle=False) as members:
            form, shape = members["format"].item(), tuple(int(n) for n in members["shape"])
    except (ValueError, TypeError, KeyError, zipfile.BadZipFile, RuntimeError, TokenError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a sound NPZ file ({first_line(error)}); write it again") from None
    if len(shape) != 2:
        raise InputError(f"{path}: has shape {shape}; a matrix has 2 dimensions")
    form = form.decode("ascii", "replace") if isinstance(form, bytes) else str(form)
    return NpzHeader((shape[0], shape[1]), check_number_dtype(dtype, str(path)), form, sizes)


def npy_header(file: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, dtype and Fortran order from the header of an open NPY file, which is left where the data begin."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise InputError(f"{path}: NPY version {version} is not usable; save a plain array of numbers")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, TypeError, SyntaxError, TokenError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a sound NPY file ({first_line(error)}); write it again") from None
    return tuple(int(n) for n in shape), dtype, bool(fortran)


def load_npz(path: Path) -> Any:
    """Load a matrix of `scipy.sparse.save_npz`, its indices checked: SciPy would read beyond the arrays."""
    try:
        with naming_faults(path):
            matrix = scipy.sparse.load_npz(path)
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            scipy.sparse.coo_array((matrix.data, (matrix.row, matrix.col)), shape=matrix.shape)
    except (ValueError, TypeError, KeyError, IndexError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a sound sparse matrix ({first_line(error)}); write it again") from None
    return matrix


def mtx_header(path: Path) -> tuple[int, int, int, str, str, str]:
    """Rows, columns, entries, format, field and symmetry that a Matrix Market file declares."""
    try:
        with naming_faults(path):
            os.stat(path)  # older releases of SciPy say of a missing file that it is no Matrix Market file
            found = scipy.io.mminfo(path)
    except (ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not a Matrix Market file ({first_line(error)}); check it") from None
    rows, columns, entries, form, field, symmetry = found
    if field == "complex":
        raise InputError(f"{path}: holds complex numbers; weights are real")
    return int(rows), int(columns), int(entries), form, field, symmetry


def load_mtx(path: Path) -> Any:
    """Load a Matrix Market file as coordinates.

    Real coordinates go through our own reader, because SciPy ignores what follows the third number of a line.
    """
    rows, columns, entries, form, field, symmetry = mtx_header(path)
    if entries and (form, symmetry) == ("coordinate", "general") and field in ("real", "integer"):
        row, column, value = read_all_triplets(path, limits=(rows, columns), skip=_header_lines(path))
        if value.size != entries:
            raise InputError(f"{path}: {value.size:,} entries where its header says {entries:,}; truncated?")
        return scipy.sparse.coo_array((value, (row, column)), shape=(rows, columns))
    try:
        with naming_faults(path):
            return scipy.sparse.coo_array(read_market(path))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: is not a sound Matrix Market file ({first_line(error)}); check it") from None


def _header_lines(path: Path) -> int:
    with open_bytes(path) as file, naming_faults(path):
        for count, line in enumerate(file, 1):
            if line.strip() and not line.startswith(b"%"):
                return count
    return 0


def pydata_to_scipy(matrix: Any, name: str) -> Any:
    """A PyData sparse array (COO, GCXS or DOK) as SciPy sparse; its fill value must be zero."""
    if matrix.fill_value != 0:
        raise InputError(f"{name}: the fill value is {matrix.fill_value}, not 0; make it dense")
    if matrix.ndim != 2:
        raise InputError(f"{name}: has {matrix.ndim} dimension{'s' * (matrix.ndim != 1)}; a matrix has 2")
    if hasattr(matrix, "to_coo"):  # DOK
        matrix = matrix.to_coo()
    return matrix.to_scipy_sparse()


def first_line(error: BaseException) -> str:
    """What another library complained about, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
