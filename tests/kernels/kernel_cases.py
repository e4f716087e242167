"""Random row blocks for tests of kernels: supernodes, irregular rows, empty rows, and none at all."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from hypothesis import strategies as st

from dasksdnn.kernels.block import make_block
from dasksdnn.kernels.panels import new_panel

#: What a block is made of: see `random_block`.
BLOCKS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "rows": st.integers(0, 40),
        "columns": st.integers(1, 90),
        "degree": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
        "twins": st.sampled_from([1, 2, 9, 40]),
    }
)
POSITIONS = ["uint16", "uint32", "int32", "int64"]
TIGHT = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def random_block(seed, rows, columns, degree, twins=1, dtype="float32"):
    """Random rows, in groups of up to `twins` that share their columns; one row is empty. Returns CSR weights and a bias."""
    rng = np.random.default_rng(seed)
    pattern = np.repeat(rng.random((rows, columns)) < degree, rng.integers(1, twins + 1, rows), axis=0)[:rows]
    dense = rng.normal(size=(rows, columns)) * pattern
    if rows:
        dense[rng.integers(rows)] = 0
    return scipy.sparse.csr_array(dense.astype(dtype)), rng.normal(size=rows).astype(dtype)


def block_of(weights, positions="uint16", *, transpose=False):
    return make_block(weights.indptr, weights.indices.astype(positions), weights.shape[1], transpose=transpose)


def random_panel(seed, neurons, width, dtype="float32"):
    panel = new_panel(neurons, width, dtype)
    panel[...] = np.random.default_rng([seed, 1]).normal(size=(neurons, width))
    return panel


def bits(panel):
    return panel.view(np.uint32 if panel.itemsize == 4 else np.uint64)
