"""Blocks: supernodes are found, and the transposed index leads to every value."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BLOCKS, POSITIONS, block_of, random_block

from dasksdnn.kernels.block import MOST_TWINS, find_supernodes, make_block


def test_supernodes():
    rows = [[1, 3], [1, 3], [1, 3], [2, 3], [], [], [1], [1, 3]]
    indptr = np.cumsum([0, *map(len, rows)])
    found = find_supernodes(indptr, np.array([j for row in rows for j in row], np.uint16))
    assert found.tolist() == [0, 3, 4, 6, 7, 8]
    assert find_supernodes(np.zeros(1, np.int64), np.zeros(0, np.uint16)).tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(made=BLOCKS, positions=st.sampled_from(POSITIONS))
def test_the_transposed_index_is_the_transpose(made, positions):
    weights, _ = random_block(**made)
    block = block_of(weights, positions, transpose=True)
    right = weights.T.tocsr()
    right.sort_indices()
    back = block.transpose
    assert sorted(back.columns) == list(range(weights.shape[1]))
    for k, j in enumerate(back.columns):
        mine, theirs = slice(*back.indptr[k : k + 2]), slice(*right.indptr[j : j + 2])
        np.testing.assert_array_equal(back.indices[mine], right.indices[theirs])
        np.testing.assert_array_equal(weights.data[back.order[mine]], right.data[theirs])
    patterns = [tuple(right.indices[slice(*right.indptr[j : j + 2])]) for j in back.columns]
    np.testing.assert_array_equal(back.supernodes, find_supernodes(back.indptr, back.indices))
    assert back.supernodes.size - 1 == sum(-(-n // MOST_TWINS) for n in Counter(patterns).values())
    assert (block.rows, block.inputs, block.nonzeros) == (*weights.shape, weights.nnz)


def test_large_supernodes_are_cut():
    block = block_of(scipy.sparse.csr_array(np.ones((200, 3), np.float32)))
    assert block.supernodes.tolist() == [0, 64, 128, 192, 200]


@pytest.mark.parametrize(
    ("indptr", "indices", "match"),
    [
        ([0, 1], [3], "3 to 3"),
        ([0, 1], [-1], "-1"),
        ([0, 2], [0], "does not rise"),
        ([0, 2, 1], [0], "does not rise"),
        ([1, 1], [0], "does not rise"),
    ],
)
def test_what_is_no_pattern_is_refused(indptr, indices, match):
    with pytest.raises(ValueError, match=match):
        make_block(np.array(indptr), np.array(indices), 3)
