"""Samples and targets: what goes through scikit-learn's checks, what is read by block, and what is set aside."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator

from dasksdnn.errors import InputError
from dasksdnn.fitting.samples import Span, check_pair, check_samples, hold_out
from dasksdnn.sources.blocks import DaskRows, DenseRows

X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 2


class Named(BaseEstimator):
    """An estimator that has seen a table with names."""

    def __init__(self):
        pass


def seen(features=3):
    estimator = Named()
    estimator.n_features_in_, estimator.feature_names_in_ = features, np.array(["a", "b", "c"], object)
    return estimator


class Deferred(DaskRows):
    """Counts what is read."""

    def __init__(self):
        super().__init__(da.from_array(X, chunks=4))
        self.spans = []

    def read(self, start, stop):
        self.spans.append((start, stop))
        return super().read(start, stop)


def test_what_is_read_by_block_is_not_read_to_be_checked():
    dataset, estimator = Deferred(), seen(7)
    x, y = check_pair(estimator, dataset, da.from_array(Y), reset=True, numeric=False)
    assert (x is dataset, dataset.spans) == (True, [])
    assert isinstance(y, np.ndarray)
    assert estimator.n_features_in_ == 3
    assert not hasattr(estimator, "feature_names_in_")
    with pytest.raises(InputError, match="has 3 features, but the network reads 7"):
        check_samples(seen(7), dataset)


def test_what_is_in_memory_is_checked():
    estimator = Named()
    x, y = check_pair(estimator, scipy.sparse.coo_matrix(X), Y.reshape(-1, 1).astype(float), reset=True, numeric=True)
    assert (x.format, y.shape, estimator.n_features_in_) == ("csr", (20, 1), 3)
    with pytest.raises(ValueError, match="NaN"):
        check_pair(Named(), np.where(X == 5, np.nan, X), Y, reset=True, numeric=False)
    assert check_samples(estimator, X.astype(np.uint8)).dtype == np.uint8  # small integers stay small


@given(st.data())
def test_a_span_is_a_slice(data):
    start = data.draw(st.integers(0, 20))
    stop = data.draw(st.integers(start, 20))
    span = Span(DenseRows(X), start, stop)
    first = data.draw(st.integers(0, span.samples))
    last = data.draw(st.integers(first, span.samples))
    assert (span.read(first, last) == X[start:stop][first:last]).all()
    assert (span.samples, span.features) == (stop - start, 3)
    assert span.block_bytes(5) == 5 * 3 * 8
    with pytest.raises(InputError, match="asked for, of"):
        span.read(first, span.samples + 1)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_every_sample_is_on_one_side(fraction):
    kept, of_kept, held = hold_out(X, Y, fraction, 3, stratify=True)
    assert held is not None
    both = np.concatenate([kept, held[0]])
    assert (both[both[:, 0].argsort()] == X).all()
    assert len(held[1]) == round(20 * fraction)
    for rows, targets in ((kept, of_kept), held):
        assert (targets == Y[rows[:, 0].astype(int) // 3]).all()
        assert abs(targets.mean() - 0.5) <= 0.5 / len(targets)
    again = hold_out(X, Y, fraction, 3, stratify=True)[0]
    assert (again == kept).all()


def test_the_last_are_set_aside_where_they_are_read_by_block():
    dataset = Deferred()
    kept, of_kept, held = hold_out(dataset, Y, 0.25, 0, stratify=True)
    assert (kept.samples, held[0].samples, dataset.spans) == (15, 5, [])
    assert (held[0].read(0, 5) == X[15:]).all()
    assert (of_kept.tolist(), held[1].tolist()) == (Y[:15].tolist(), Y[15:].tolist())
    assert hold_out(dataset, Y, 0.0, 0, stratify=True) == (dataset, Y, None)
    with pytest.raises(InputError, match=r"0\.99 of 20 samples leaves none"):
        hold_out(dataset, Y, 0.99, 0, stratify=False)
    with pytest.raises(InputError, match="from 0 to less than 1"):
        hold_out(dataset, Y, -0.1, 0, stratify=False)
