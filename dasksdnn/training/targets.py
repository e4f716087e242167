"""What a network's outputs should be: class numbers, or values, from whatever the user holds, checked."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.datasets import as_dataset, read_labels


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
    """Check target values, and hold them in memory, in the dtype that they have.

    Parameters
    ----------
    values : array of shape (samples, outputs), or (samples,) for one output; sequence, dask.array, or path of a dataset
    samples, outputs : int
    shares : bool
        They must be from 0 to 1, as bce needs them.

    Raises
    ------
    InputError
        Naming the first sample that is wrong.
    """
    if isinstance(values, str | os.PathLike):
        with closing(as_dataset(values)) as dataset:
            values = dataset.read(0, dataset.samples)
    held = _in_memory(values)
    if held.dtype.kind not in "iubf":
        raise InputError(f"targets are of {held.dtype}: they must be numbers")
    given, held = held.shape, held.reshape(-1, 1) if held.ndim == 1 else held
    if held.shape != (samples, outputs):
        raise InputError(f"targets have shape {given}, the outputs have ({samples}, {outputs}): give a value for each")
    wrong = np.flatnonzero(~np.isfinite(held).all(axis=1))
    if wrong.size:
        raise InputError(f"the target of sample {wrong[0]} (from 0) is NaN or infinite: remove the sample")
    wrong = np.flatnonzero(((held < 0) | (held > 1)).any(axis=1)) if shares else wrong
    if wrong.size:
        raise InputError(
            f"the target of sample {wrong[0]} (from 0) is not from 0 to 1: scale targets, or use another loss"
        )
    return Targets(held)


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
