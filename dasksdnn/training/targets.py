"""What a network's outputs should be: class numbers, or values, from whatever the user holds, checked."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import closing
from typing import Any

import numpy as np
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.blocks import Dataset
from dasksdnn.sources.datasets import as_dataset, read_labels

#: Bytes of values that are held of those that are read by block: what two shuffled buffers of samples may ask for in turn.
CACHE_BYTES = 128 << 20
#: Pieces that these are cut into, about.
PIECES = 128


class Targets:
    """Targets, all of them held in memory; `take` gives those of some samples."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def take(self, samples: Array) -> Array:
        """Targets of these samples, one row or number each."""
        taken: Array = self._values[samples]
        return taken

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return int(self._values.nbytes)


class StoredTargets(Targets):
    """Values that are read a piece at a time; the pieces used last are held. Used by one thread."""

    def __init__(self, dataset: Dataset, shares: bool = False) -> None:
        self._dataset, self._shares = dataset, shares
        self._row = dataset.features * np.dtype(getattr(dataset, "dtype", np.float64)).itemsize
        self._piece = max(1, min(dataset.block, CACHE_BYTES // PIECES // self._row))
        self._held: OrderedDict[int, Array] = OrderedDict()

    def take(self, samples: Array) -> Array:
        """See `Targets`.

        Raises
        ------
        InputError
            Naming the first sample of a piece that is wrong, or what cannot be read.
        """
        number, within = np.divmod(samples, self._piece)
        parts = [(at := np.flatnonzero(number == n), self._rows(n)[within[at]]) for n in np.unique(number).tolist()]
        taken = np.empty((len(samples), self._dataset.features), parts[0][1].dtype if parts else np.float64)
        for at, rows in parts:
            taken[at] = rows
        return taken

    def _rows(self, piece: int) -> Array:
        if piece in self._held:
            self._held.move_to_end(piece)
            return self._held[piece]
        while self._held and (len(self._held) + 1) * self._piece * self._row > CACHE_BYTES:
            self._held.popitem(last=False)
        start = piece * self._piece
        rows = self._dataset.read(start, min(start + self._piece, self._dataset.samples))
        self._held[piece] = _checked(rows.toarray() if scipy.sparse.issparse(rows) else rows, self._shares, start)
        return self._held[piece]

    @property
    def nbytes(self) -> int:
        """Bytes that are held at most."""
        held = min(self._dataset.samples * self._row, CACHE_BYTES)
        return held + self._dataset.block_bytes(self._piece) + self._piece * self._row


def class_targets(labels: Any, samples: int, classes: int) -> Targets:
    """Check class numbers, and hold them in memory: 8 bytes a sample.

    Parameters
    ----------
    labels : array of shape (samples,), sequence, dask.array, or path that `read_labels` reads
        Whole numbers from 0 to classes - 1.
    samples, classes : int

    Raises
    ------
    InputError
        Naming the first sample that is wrong.
    """
    values = read_labels(labels) if isinstance(labels, str | os.PathLike) else _in_memory(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values.reshape(-1)
    if values.ndim != 1:
        hint = ", as argmax(axis=1) makes of one-hot rows" if values.ndim == 2 else ""
        raise InputError(f"labels have shape {values.shape}: give one class number a sample{hint}")
    if values.size != samples:
        raise InputError(f"there are {values.size:,} labels for {samples:,} samples: give one for each")
    if values.dtype.kind not in "iubf":
        raise InputError(f"labels are of {values.dtype}: they must be whole numbers from 0 to {classes - 1}")
    part = np.flatnonzero(values != np.floor(values)) if values.dtype.kind == "f" else np.empty(0, np.int64)
    if part.size:
        raise InputError(f"the label of sample {part[0]} (from 0) is {values[part[0]]}: it must be a whole number")
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if wrong.size:
        raise InputError(
            f"the label of sample {wrong[0]} (from 0) is {values[wrong[0]]}: the network has {classes} outputs, so labels "
            f"run from 0 to {classes - 1}"
        )
    return Targets(values.astype(np.int64))


def value_targets(values: Any, samples: int, outputs: int, *, shares: bool = False) -> Targets:
    """Check target values, in the dtype that they have; many of them are read by block as they are asked for.

    Parameters
    ----------
    values : array of shape (samples, outputs), or (samples,) for one output; sequence, path of a dataset, Dataset
        Of a path, a dataset, or a zarr.Array or dask.array of two dimensions, no more than `CACHE_BYTES` are held.
    samples, outputs : int
    shares : bool
        They must be from 0 to 1, as bce needs them.

    Raises
    ------
    InputError
        Naming the first sample that is wrong: here, or from `take` where values are read by block.
    """
    if _is_by_block(values):
        dataset = as_dataset(values)
        if dataset.block_bytes(dataset.samples) > CACHE_BYTES:
            _check_shape((dataset.samples, dataset.features), samples, outputs)
            return StoredTargets(dataset, shares)
        if dataset is values:
            values = dataset.read(0, dataset.samples)
        else:
            with closing(dataset):
                values = dataset.read(0, dataset.samples)
    held = _in_memory(values)
    if held.dtype.kind not in "iubf":
        raise InputError(f"targets are of {held.dtype}: they must be numbers")
    if held.shape != (samples,) or outputs != 1:
        _check_shape(held.shape, samples, outputs)
    return Targets(_checked(held.reshape(samples, outputs), shares, 0))


def _is_by_block(values: Any) -> bool:
    library = type(values).__module__.partition(".")[0]  # told by name, so that nothing is imported for asking
    lazy = library in ("zarr", "dask") and getattr(values, "ndim", 0) == 2
    return lazy or isinstance(values, str | os.PathLike | Dataset)


def _check_shape(shape: tuple[int, ...], samples: int, outputs: int) -> None:
    if shape != (samples, outputs):
        raise InputError(f"targets have shape {shape}, the outputs have ({samples}, {outputs}): give a value for each")


def _checked(values: Array, shares: bool, start: int) -> Array:
    """Values, from sample `start` on, unless one is not finite, or beyond 0 to 1 where it must not be."""
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise InputError(f"the target of sample {start + wrong[0]} (from 0) is NaN or infinite: remove the sample")
    wrong = np.flatnonzero(((values < 0) | (values > 1)).any(axis=1)) if shares else wrong
    if wrong.size:
        raise InputError(
            f"the target of sample {start + wrong[0]} (from 0) is not from 0 to 1: scale targets, or use another loss"
        )
    return values


def _in_memory(values: Any) -> Array:
    if isinstance(values, np.ma.MaskedArray):
        raise InputError("the targets are a masked array: fill it first, as in y.filled(0)")
    if hasattr(values, "dask"):
        values = values.compute()
    for dense in ("toarray", "todense"):  # of SciPy, and of PyData sparse
        if hasattr(values, dense):
            values = getattr(values, dense)()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"the targets cannot be made an array: {error}") from None
