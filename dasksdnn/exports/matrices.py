"""Folders of matrices, a file a layer: SciPy's NPZ, Matrix Market, and PyData sparse's NPZ.

net/  layer-0001.npz  bias-0001.npy  layer-0002.npz  ...  network.json   which files make which layer, and activations
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from dasksdnn.exports.outline import Outline
from dasksdnn.sources.folders import FolderLayer, write_index


def write_npz(outline: Outline, folder: Path, layout: str) -> None:
    """See `exporting.export`."""
    _write(outline, folder, "npz", lambda path, weights: scipy.sparse.save_npz(path, weights))


def write_mtx(outline: Outline, folder: Path, layout: str) -> None:
    """See `exporting.export`. As many digits as each number takes to be read as the same."""
    digits = np.finfo(outline.net.dtype).precision + 3

    def write(path: Path, weights: Any) -> None:
        scipy.io.mmwrite(path, weights.tocoo(), precision=digits, symmetry="general")

    _write(outline, folder, "mtx", write)


def write_sparse(outline: Outline, folder: Path, layout: str) -> None:
    """See `exporting.export`."""
    import sparse

    def write(path: Path, weights: Any) -> None:
        sparse.save_npz(str(path), sparse.GCXS.from_scipy_sparse(weights))

    _write(outline, folder, "npz", write)


def _write(outline: Outline, folder: Path, suffix: str, write: Callable[[Path, Any], None]) -> None:
    folder.mkdir()
    index = []
    for number, layer in enumerate(outline.layers(), 1):
        entry = FolderLayer(f"layer-{number:04}.{suffix}", f"bias-{number:04}.npy", str(layer.activation))
        write(folder / entry.weights, layer.weights)
        np.save(folder / entry.bias, layer.bias)
        index.append(entry)
    write_index(folder, index, outline.net.dtype)
