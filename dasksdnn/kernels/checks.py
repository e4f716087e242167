"""What compiled kernels rely on, checked before they run: they write where they are told, whatever lies there."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasksdnn.network import Array


def check_values(dtype: np.dtype[Any], **arrays: tuple[Array, int]) -> None:
    """Check vectors: each of `dtype`, contiguous, and of exactly so many entries.

    Raises
    ------
    ValueError
        Names the first that is not.
    """
    for name, (array, size) in arrays.items():
        if array.shape != (size,) or array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} has shape {array.shape}, {array.dtype}: it must be contiguous, ({size},), {dtype}"
            )


def check_panels(dtype: np.dtype[Any], samples: int, **panels: tuple[Array, int]) -> None:
    """Check panels: each of `dtype`, in C order, of so many rows at least, and all of one width, `samples` at least.

    Raises
    ------
    ValueError
        Names the first that is not.
    """
    width = max(panel.shape[-1] for panel, _ in panels.values())
    if not 0 <= samples <= width:
        raise ValueError(f"samples is {samples}: the panels hold {width}")
    for name, (panel, rows) in panels.items():
        if panel.ndim != 2 or panel.dtype != dtype or not panel.flags.c_contiguous:
            raise ValueError(f"panel {name} must be an array of {dtype} in C order, with 2 dimensions")
        if panel.shape[0] < rows or panel.shape[1] != width:
            raise ValueError(
                f"panel {name} has shape {panel.shape}: it needs {rows} rows, and the others' width, {width}"
            )
