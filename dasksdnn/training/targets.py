"""What a network's outputs should be: class numbers, or values, from whatever the user holds, checked."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.datasets import as_dataset, read_labels


class Targets:
    """Targets in memory; `take` gives those of some samples."""

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
    """Check class numbers.

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
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    if values.ndim != 1:
        raise InputError(f"labels have shape {values.shape}: give one class number a sample")
    if values.size != samples:
        raise InputError(f"there are {values.size:,} labels for {samples:,} samples: give one for each")
    if values.dtype.kind not in "iubf" or (values.dtype.kind == "f" and (values != np.floor(values)).any()):
        raise InputError(f"labels are of {values.dtype}: they must be whole numbers from 0 to {classes - 1}")
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if wrong.size:
        raise InputError(
            f"the label of sample {wrong[0]} (from 0) is {values[wrong[0]]}: the network has {classes} outputs, so labels "
            f"run from 0 to {classes - 1}"
        )
    return Targets(values.astype(np.int64))


def value_targets(values: Any, samples: int, outputs: int) -> Targets:
    """Check target values.

    Parameters
    ----------
    values : array of shape (samples, outputs), or (samples,) for one output; sequence, dask.array, or path of a dataset
    samples, outputs : int

    Raises
    ------
    InputError
        Naming the first sample that is wrong.
    """
    if isinstance(values, str | os.PathLike):
        dataset = as_dataset(values)
        values = dataset.read(0, dataset.samples)
    held = _in_memory(values)
    if held.dtype.kind not in "iubf":
        raise InputError(f"targets are of {held.dtype}: they must be numbers")
    held = held.reshape(-1, 1) if held.ndim == 1 else held
    if held.shape != (samples, outputs):
        raise InputError(f"targets have shape {held.shape}, the outputs have ({samples}, {outputs})")
    wrong = np.flatnonzero(~np.isfinite(held).all(axis=1))
    if wrong.size:
        raise InputError(f"the target of sample {wrong[0]} (from 0) is NaN or infinite: remove the sample")
    return Targets(held)


def _in_memory(values: Any) -> Array:
    if hasattr(values, "dask"):
        values = values.compute()
    if hasattr(values, "toarray"):
        values = values.toarray()
    return np.asarray(values)
