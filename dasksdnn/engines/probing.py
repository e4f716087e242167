"""Activations and deltas of every layer for a few samples, kept on scratch: the gradient of edges that are not stored yet.

gradient of W_k at (i, j) = sum over the samples of delta_k[i, s] * x_k-1[j, s]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from dasksdnn.atomic import storage_error
from dasksdnn.errors import StoreError
from dasksdnn.network import Array

#: Products that are held at once.
_PRODUCTS = 1 << 20


class Probe:
    """Panels on a scratch file without a name; close it when done.

    Parameters
    ----------
    scratch : path or None
        Its folder; by default the system's for temporary files.
    samples : int
    dtype : numpy dtype
    """

    def __init__(self, scratch: str | os.PathLike[str] | None, samples: int, dtype: np.dtype[np.generic]) -> None:
        self._folder = Path(scratch) if scratch is not None else Path(tempfile.gettempdir())
        self._samples, self._dtype = samples, dtype
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._end = 0
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise self._fault(error) from error

    def add(self, kind: str, k: int, neurons: Array, panels: list[Array]) -> None:
        """Keep a layer's panel.

        Parameters
        ----------
        kind : {"x", "delta"}
            Activations x_k, or deltas of layer k.
        k : int
        neurons : int array of shape (rows,)
            Which neuron each row is.
        panels : list of arrays of shape (rows, some samples)
        """
        panel: Array = np.empty((neurons.size, self._samples), self._dtype)
        panel[neurons] = np.concatenate(panels, axis=1)
        try:
            self._file.seek(self._end)
            self._file.write(panel.data)
            self._file.flush()
        except OSError as error:
            raise self._fault(error) from error
        self._places[kind, k] = (self._end, neurons.size)
        self._end += panel.nbytes

    def gradient(self, layer: int, rows: Array, columns: Array) -> Array:
        """The gradient of entries (rows[e], columns[e]) of layer `layer` (0-based), in double precision."""
        x, delta = self._read("x", layer), self._read("delta", layer + 1)
        found = np.empty(rows.size)
        step = max(1, _PRODUCTS // self._samples)
        for at in range(0, rows.size, step):
            part = slice(at, at + step)
            found[part] = np.einsum("es,es->e", delta[rows[part]], x[columns[part]], dtype=np.float64)
        return found

    def _read(self, kind: str, k: int) -> Array:
        place, neurons = self._places[kind, k]
        panel: Array = np.empty((neurons, self._samples), self._dtype)
        try:
            self._file.seek(place)
            count = self._file.readinto(panel.data)
        except OSError as error:
            raise self._fault(error) from error
        if count != panel.nbytes:
            raise StoreError(f"{self._folder}: the scratch file of training ends early: start again with --resume")
        return panel

    def _fault(self, error: OSError) -> StoreError:
        return StoreError(f"scratch of training: {storage_error(self._folder, error)}, with --scratch (scratch=)")

    def close(self) -> None:
        """Give the scratch file's space back."""
        self._file.close()
