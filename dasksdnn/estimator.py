"""Sparse networks as scikit-learn estimators: for pipelines, grid searches and data in memory, or read by block.

fit: X, y --checked--> network (drawn sparse, or given) --save--> store --train (in place)--> store_
predict: X --infer--> outputs --argmax, softmax--> ndarray, or a lazy dask.array for a dask.array
"""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from dasksdnn.errors import InputError
from dasksdnn.fitting.base import ATTRIBUTES, PARAMETERS, SparseDNN
from dasksdnn.fitting.samples import check_pair
from dasksdnn.network import Array


class SparseDNNClassifier(ClassifierMixin, SparseDNN):  # type: ignore[misc]
    __doc__ = f"""A sparse network that tells classes, trained by the cross-entropy of the softmax of its outputs.
{PARAMETERS}
    Attributes
    ----------
    classes_ : ndarray
        Labels, ascending; one output each.
    {ATTRIBUTES}
    Examples
    --------
    >>> from dasksdnn import SparseDNNClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> SparseDNNClassifier(density=0.2, random_state=0).fit(X / 16, y).score(X / 16, y) > 0.9
    True
    """

    _loss = "softmax"

    def fit(self, X: Any, y: Any) -> Self:
        """Train from new weights (of a store that was given: from those it has).

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)
        y : array or dask.array of shape (samples,)
            Labels, of at least 2 classes.

        Returns
        -------
        Self

        Raises
        ------
        InputError, OutputExistsError, MemoryBudgetError, TrainingError, StoreError, PartitionerError

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> net = sdnn.SparseDNNClassifier(density=0.5, random_state=0, epochs=2).fit(X, y)
        >>> net.classes_.tolist(), net.n_iter_
        ([0, 1, 2], 2)
        """
        x, labels = check_pair(self, X, y, reset=True, numeric=False)
        check_classification_targets(labels)
        classes, targets = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y has {len(classes)} class: give samples of at least 2 classes")
        self._fit(x, targets, len(classes))
        self.classes_ = classes
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Train for one epoch, from the weights as they are.

        The optimizer's moments go on where the last call, or fit, had the same options and as many samples, and there was
        no pickling between; else they begin at zero. `schedule`, `warmup`, `patience` and `validation_fraction` are not
        used.

        Parameters
        ----------
        X, y
            As for `fit`.
        classes : array of shape (classes,)
            All labels that there will be. Needed in the first call.

        Returns
        -------
        Self

        Raises
        ------
        InputError, OutputExistsError, MemoryBudgetError, TrainingError, StoreError, PartitionerError

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> net = sdnn.SparseDNNClassifier(density=0.5, random_state=0)
        >>> net.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y).n_iter_
        2
        """
        first = not self.__sklearn_is_fitted__()
        known = self._known(first, classes)
        x, labels = check_pair(self, X, y, reset=first, numeric=False)
        check_classification_targets(labels)
        strange = np.flatnonzero(~np.isin(labels, known))[:1].tolist()
        if strange:
            raise InputError(
                f"the label {labels[strange].tolist()[0]!r} of sample {strange[0]} (from 0) is none of the classes "
                f"{known.tolist()}: name all in the first call"
            )
        self._go_on(x, np.searchsorted(known, labels), len(known))
        self.classes_ = known
        return self

    def _known(self, first: bool, classes: Any) -> Array:
        if classes is None:
            if first:
                raise InputError(
                    "classes must be passed on the first call to partial_fit: all labels that there will be"
                )
            known: Array = self.classes_
            return known
        given = np.unique(np.asarray(classes))
        if not first and not np.array_equal(given, self.classes_):
            raise InputError(
                f"classes {given.tolist()} are not those of before, {self.classes_.tolist()}: leave them out"
            )
        if len(given) < 2:
            raise InputError(f"classes has {len(given)} class: give at least 2 classes")
        return given

    def predict(self, X: Any) -> Any:
        """Tell the most likely class of each sample.

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)

        Returns
        -------
        ndarray of shape (samples,), or a lazy dask.array where `X` is one

        Raises
        ------
        InputError, MemoryBudgetError, StoreError
        sklearn.exceptions.NotFittedError
            There was no `fit`.

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> net = sdnn.SparseDNNClassifier(density=0.5, random_state=0, epochs=2)
        >>> net.fit(X, y).predict(X[:4]).shape
        (4,)
        """
        check_is_fitted(self)
        return self._outputs(X, partial(_likeliest, self.classes_))

    def predict_proba(self, X: Any) -> Any:
        """Tell the probability of each class, the softmax of the outputs.

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)

        Returns
        -------
        ndarray of float64, shape (samples, classes), or a lazy dask.array where `X` is one
            Columns are in the order of `classes_`.

        Raises
        ------
        InputError, MemoryBudgetError, StoreError
        sklearn.exceptions.NotFittedError
            There was no `fit`.

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> net = sdnn.SparseDNNClassifier(density=0.5, random_state=0, epochs=2)
        >>> net.fit(X, y).predict_proba(X[:4]).sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]
        """
        return self._outputs(X, _softmax)

    def decision_function(self, X: Any) -> Any:
        """Give the outputs before the softmax; of two classes the second's less the first's.

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)

        Returns
        -------
        ndarray of float64, shape (samples, classes), or (samples,) for two classes; or a lazy dask.array where `X` is one

        Raises
        ------
        InputError, MemoryBudgetError, StoreError
        sklearn.exceptions.NotFittedError
            There was no `fit`.

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> net = sdnn.SparseDNNClassifier(density=0.5, random_state=0, epochs=2)
        >>> net.fit(X, y).decision_function(X[:4]).shape
        (4, 3)
        """
        return self._outputs(X, _margin)


class SparseDNNRegressor(MultiOutputMixin, RegressorMixin, SparseDNN):  # type: ignore[misc]
    __doc__ = f"""A sparse network that estimates values, trained by squared error.

    Targets are learned as they are: bring them to mean 0 and variance about 1 where they are far from that, as
    `sklearn.compose.TransformedTargetRegressor` does.
{PARAMETERS}
    Attributes
    ----------
    n_outputs_ : int
    {ATTRIBUTES}
    Examples
    --------
    >>> from dasksdnn import SparseDNNRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(500, 8, random_state=0)
    >>> net = SparseDNNRegressor(density=0.5, learning_rate=0.01, epochs=40, random_state=0)
    >>> net.fit(X, y / y.std()).score(X, y / y.std()) > 0.95
    True
    """

    _loss = "mse"

    def fit(self, X: Any, y: Any) -> Self:
        """Train from new weights (of a store that was given: from those it has).

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)
        y : array or dask.array of shape (samples,) or (samples, outputs)

        Returns
        -------
        Self

        Raises
        ------
        InputError, OutputExistsError, MemoryBudgetError, TrainingError, StoreError, PartitionerError

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> net = sdnn.SparseDNNRegressor(density=0.5, random_state=0, epochs=2).fit(X, y / y.std())
        >>> net.n_outputs_, net.n_iter_, net.network_.widths
        (1, 2, (10, 100, 1))
        """
        x, values = check_pair(self, X, y, reset=True, numeric=True)
        self._fit(x, values, 1 if values.ndim == 1 else values.shape[1])
        self._describe(values)
        return self

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Train for one epoch, from the weights as they are; see `SparseDNNClassifier.partial_fit`.

        Parameters
        ----------
        X, y
            As for `fit`.

        Returns
        -------
        Self

        Raises
        ------
        InputError, OutputExistsError, MemoryBudgetError, TrainingError, StoreError, PartitionerError

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> net = sdnn.SparseDNNRegressor(density=0.5, random_state=0)
        >>> net.partial_fit(X, y / y.std()).partial_fit(X, y / y.std()).n_iter_
        2
        """
        x, values = check_pair(self, X, y, reset=not self.__sklearn_is_fitted__(), numeric=True)
        self._go_on(x, values, 1 if values.ndim == 1 else values.shape[1])
        self._describe(values)
        return self

    def _describe(self, values: Array) -> None:
        self._flat = values.ndim == 1
        self.n_outputs_ = 1 if self._flat else values.shape[1]

    def predict(self, X: Any) -> Any:
        """Estimate the values of each sample.

        Parameters
        ----------
        X : array, sparse matrix, table, dask or zarr array, memory map or Dataset of shape (samples, features)

        Returns
        -------
        ndarray of float64, shape (samples,) or (samples, outputs) as the targets were, or a lazy dask.array where `X` is one

        Raises
        ------
        InputError, MemoryBudgetError, StoreError
        sklearn.exceptions.NotFittedError
            There was no `fit`.

        Examples
        --------
        >>> import dasksdnn as sdnn
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> net = sdnn.SparseDNNRegressor(density=0.5, random_state=0, epochs=2)
        >>> net.fit(X, y / y.std()).predict(X[:4]).shape
        (4,)
        """
        check_is_fitted(self)
        return self._outputs(X, _first if self._flat else _wide)


def _likeliest(classes: Array, z: Array) -> Array:
    found: Array = classes[z.argmax(axis=1)]
    return found


def _softmax(z: Array) -> Array:
    share: Array = np.exp(_wide(z) - z.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return share


def _margin(z: Array) -> Array:
    wide = _wide(z)
    return wide if z.shape[1] > 2 else wide[:, 1] - wide[:, 0]


def _first(z: Array) -> Array:
    return _wide(z[:, 0])


def _wide(z: Array) -> Array:
    """As float64: outputs that differ give probabilities and margins that differ, and scikit-learn expects it of values."""
    return z.astype(np.float64, copy=False)
