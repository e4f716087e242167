"""The one way from whatever a user holds (an array of any library, or a path) to a `Dataset` that is read by block."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError, MemoryBudgetError
from dasksdnn.host import format_bytes
from dasksdnn.sources.blocks import DaskRows, Dataset, DenseRows, RawRows, SparseRows, ZarrRows, check_size
from dasksdnn.sources.checks import whole_number
from dasksdnn.sources.files import naming_faults, read_integers
from dasksdnn.sources.idx import open_idx, read_idx_labels
from dasksdnn.sources.images import Enlarged
from dasksdnn.sources.matrices import first_line, load_npz, npy_header, npz_header
from dasksdnn.sources.spool import SpooledText

__all__ = ["Dataset", "as_dataset", "check_features", "open_dataset", "read_labels"]

_KINDS = ".tsv, .tsv.gz, .npy, .npz, IDX (*idx*-ubyte, .idx, also .gz) or a Zarr array's directory"


def as_dataset(x: Any) -> Dataset:
    """Read whatever holds samples as a dataset.

    Parameters
    ----------
    x : ndarray, memmap, SciPy sparse, PyData sparse, zarr.Array, dask.array, path or Dataset
        Shape (samples, features). Of a Dask array only the rows asked for are computed. Paths go to `open_dataset`.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        For other types, shapes that are not 2-d, dtypes that are not real numbers, duplicates in sparse arrays.
    """
    library = type(x).__module__.partition(".")[0]  # told by name, so that nothing is imported for asking
    if isinstance(x, np.ma.MaskedArray):
        raise InputError("x is a masked array: fill it first, as in x.filled(0)")
    if isinstance(x, np.ndarray):
        return DenseRows(x)
    if scipy.sparse.issparse(x) or (library == "sparse" and hasattr(x, "fill_value")):
        return SparseRows(x)
    if library == "zarr" and hasattr(x, "chunks"):
        return ZarrRows(x)
    if library == "dask" and hasattr(x, "chunks"):
        return DaskRows(x)
    if isinstance(x, str | os.PathLike):
        return open_dataset(x)
    if isinstance(x, Dataset):
        return x
    raise InputError(
        f"a dataset cannot be made of {type(x).__module__}.{type(x).__qualname__}; "
        f"give a NumPy, SciPy sparse, PyData sparse, Zarr or Dask array, or a path"
    )


def open_dataset(
    path: str | os.PathLike[str],
    *,
    features: int | None = None,
    samples: int | None = None,
    memory: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    enlarge: bool = False,
) -> Dataset:
    """Open a dataset by its name's ending.

    Parameters
    ----------
    path : path
        `.tsv`, `.tsv.gz`: Graph Challenge coordinates, spooled to scratch files by sample. `.npz`: of
        `scipy.sparse.save_npz`, loaded whole. `.npy` and IDX (`*idx*-ubyte`, `.idx`, also `.gz`): read by block. A
        directory, or an address with `://`: a 2-d Zarr array.
    features : int or None
        Needed for TSV, and to enlarge; elsewhere it is checked.
    samples : int or None
        For TSV the number of samples (None: the largest seen); elsewhere it is checked.
    memory : int or None
        Bytes that loading may take.
    scratch : path or None
        Where scratch files go (None: the system's place for temporary files).
    enlarge : bool
        Pictures of an IDX file become squares of `features` pixels, 0 or 1, as the Graph Challenge made its inputs.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        Naming the file and the fault.
    MemoryBudgetError
        Where an NPZ file would not fit into `memory`.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(folder.name + "/x.npy", np.arange(12.0).reshape(4, 3))
    >>> data = sdnn.open_dataset(folder.name + "/x.npy", features=3)
    >>> data.samples, data.read(1, 2).tolist()
    (4, [[3.0, 4.0, 5.0]])
    >>> folder.cleanup()
    """
    text = os.fspath(path)
    features = None if features is None else whole_number(features, "features")
    samples = None if samples is None else whole_number(samples, "samples")
    dataset = _open(text, features, samples, memory, scratch)
    try:
        if enlarge:
            dataset = _enlarged(dataset, features)
        if features is not None:
            check_features(dataset, features)
        if samples is not None and dataset.samples != samples:
            raise InputError(f"{text}: holds {dataset.samples} samples, not {samples}; check the file or the number")
    except InputError:
        dataset.close()
        raise
    return dataset


def _open(text: str, features: int | None, samples: int | None, memory: int | None, scratch: Any) -> Dataset:
    name = os.path.basename(text).lower()
    if "://" in text or os.path.isdir(text):
        return _open_zarr(text)
    with naming_faults(text):
        os.stat(text)
    if name.endswith((".tsv", ".tsv.gz")):
        if features is None:
            raise InputError(f"{text}: the text does not tell how many features there are; give features")
        return SpooledText(text, features, samples, scratch)
    if name.endswith(".npz"):
        return _open_npz(text, memory)
    if name.endswith(".npy"):
        return _open_npy(text)
    if _is_idx(name):
        return open_idx(text, scratch)
    raise InputError(f"{text}: not a kind of dataset that is known by its name; use {_KINDS}")


def _enlarged(dataset: Dataset, features: int | None) -> Dataset:
    if not isinstance(dataset, RawRows) or not dataset.picture:
        raise InputError(f"{dataset.name}: pictures of an IDX file alone can be enlarged; give one, or no enlarge")
    if features is None:
        raise InputError(f"{dataset.name}: pictures are enlarged to a number of features: give features")
    return Enlarged(dataset, features)


def _is_idx(name: str) -> bool:
    plain = name.removesuffix(".gz")
    return fnmatch(plain, "*idx*-ubyte") or plain.endswith(".idx")


def _open_zarr(text: str) -> ZarrRows:
    import zarr

    try:
        array = zarr.open(text, mode="r")
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"{text}: cannot be opened as a Zarr array ({first_line(error)}); use {_KINDS}") from None
    if not isinstance(array, zarr.Array):
        inner = ", ".join(sorted(name for name, _ in array.arrays())[:5]) or "none"
        raise InputError(f"{text}: is a Zarr group; give the path of an array in it (it holds: {inner})")
    return ZarrRows(array, text)


def _open_npz(text: str, memory: int | None) -> SparseRows:
    header = npz_header(text)
    loaded = sum(header.sizes.values())
    # CSR may have its indices converted; other formats pass through coordinates to CSR.
    needed = loaded + header.sizes.get("indices", 0) if header.format == "csr" else 3 * loaded
    if memory is not None and needed > memory:
        raise MemoryBudgetError(
            f"{text}: loading it takes {format_bytes(needed)}, and {format_bytes(memory)} of the budget are left; "
            f"convert it to a Zarr array or an .npy file, which are read by block",
            smallest=needed,
        )
    matrix = load_npz(text)
    if header.format == "csr":
        matrix.sort_indices()  # in place, where `canonical_csr` would copy
    return SparseRows(matrix, text)


def _open_npy(text: str) -> RawRows:
    with naming_faults(text), open(text, "rb") as file:
        shape, dtype, fortran = npy_header(file, text)
        offset = file.tell()
    if fortran and len(shape) == 2 and min(shape) > 1:
        raise InputError(
            f"{text}: is in Fortran order, so no sample is in one piece; save numpy.ascontiguousarray of it"
        )
    rows = RawRows(text, offset, dtype, shape)
    check_size(text, offset + rows.samples * rows.row_bytes)
    return rows


def check_features(dataset: Dataset, features: int) -> None:
    """Check that a dataset fits a network's input.

    Raises
    ------
    InputError
        Naming both numbers, and saying so where the dataset seems to be transposed.
    """
    if dataset.features == features:
        return
    hint = "use a dataset or a network that fits"
    if dataset.samples == features:
        hint = f"its {dataset.samples} rows would fit: is it transposed? Rows are samples"
    raise InputError(f"{dataset.name}: has {dataset.features} features, but the network reads {features}; {hint}")


def read_labels(path: str | os.PathLike[str]) -> npt.NDArray[np.int64]:
    """Read one whole number a sample: .npy, IDX (also .gz), or .tsv or .txt (also .gz) with one a line.

    Returns
    -------
    ndarray of int64, shape (samples,)

    Raises
    ------
    InputError
        Naming the file, and the line where there is one.
    """
    text = os.fspath(path)
    name = os.path.basename(text).lower()
    if name.endswith(".npy"):
        return _npy_labels(text)
    if _is_idx(name):
        return read_idx_labels(text)
    if name.removesuffix(".gz").endswith((".tsv", ".txt")):
        return read_integers(text, "label", -(10**18))
    raise InputError(f"{text}: not a kind of labels that is known by its name; use .npy, IDX, .tsv or .txt")


def _npy_labels(text: str) -> npt.NDArray[np.int64]:
    with naming_faults(text), open(text, "rb") as file:
        shape, dtype, _ = npy_header(file, text)
        if len(shape) != 1 or dtype.kind not in "iub":
            raise InputError(f"{text}: holds {dtype} of shape {shape}; labels are one whole number a sample")
        check_size(text, file.tell() + shape[0] * dtype.itemsize)
        labels = np.fromfile(file, dtype)
    if dtype.kind == "u" and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise InputError(f"{text}: holds a label beyond int64; renumber the labels")
    return labels.astype(np.int64)
