"""Samples and targets for estimators: what is in memory is checked as scikit-learn does, what is not is read by block.

arrays, matrices, tables          --scikit-learn's checks-->  +
dask, zarr, memmap, Dataset, ...  --shape only------------->  +--> train, infer
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_array, column_or_1d

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.blocks import Dataset
from dasksdnn.sources.checks import real_number
from dasksdnn.sources.datasets import as_dataset, check_features

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn 1.5 has it as a method

    def validate_data(estimator: Any, *data: Any, **how: Any) -> Any:
        """Check samples, and set or compare what is known of the features."""
        return estimator._validate_data(*data, **how)


def is_read_by_block(x: Any) -> bool:
    """Whether samples may not fit in memory, so that they are left where they are."""
    library = type(x).__module__.partition(".")[0]  # told by name, so that nothing is imported for asking
    return library in ("dask", "zarr", "sparse") or isinstance(x, np.memmap | Dataset)


def check_samples(estimator: Any, x: Any, *, reset: bool = False) -> Any:
    """Check samples; `reset`: they say how many features there are, else they must have as many as were seen.

    Raises
    ------
    InputError, ValueError
    """
    if not is_read_by_block(x):
        return validate_data(estimator, x, reset=reset, accept_sparse="csr")
    dataset = as_dataset(x)
    if not reset:
        check_features(dataset, estimator.n_features_in_)
    else:
        estimator.n_features_in_ = int(dataset.features)
        vars(estimator).pop("feature_names_in_", None)  # of an earlier fit
    return x


def check_pair(estimator: Any, x: Any, y: Any, *, reset: bool, numeric: bool) -> tuple[Any, Array]:
    """Check samples and their targets, which are brought to memory.

    Parameters
    ----------
    estimator : BaseEstimator
    x, y
        Samples, one a row, and as many targets.
    reset : bool
        See `check_samples`.
    numeric : bool
        Targets are numbers, (n,) or (n, outputs); else they are labels, (n,).

    Raises
    ------
    InputError, ValueError
    """
    if hasattr(y, "dask"):
        y = y.compute()
    if not is_read_by_block(x):
        checked: tuple[Any, Array] = validate_data(
            estimator, x, y, reset=reset, accept_sparse="csr", multi_output=numeric, y_numeric=numeric
        )
        return checked
    if y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    samples = check_samples(estimator, x, reset=reset)
    targets = check_array(y, dtype="numeric" if numeric else None, ensure_2d=False, input_name="y")
    count = int(as_dataset(samples).samples)
    if len(targets) != count:
        raise InputError(f"y has {len(targets):,} targets for {count:,} samples: give one for each")
    return samples, targets if numeric else column_or_1d(targets, warn=True)


class Span:
    """Samples `start` to `stop` of a dataset, as a dataset."""

    def __init__(self, dataset: Dataset, start: int, stop: int) -> None:
        self._dataset, self._start = dataset, start
        self.name, self.features = dataset.name, dataset.features
        self.samples = stop - start
        self.block = max(1, min(dataset.block, self.samples))

    def read(self, start: int, stop: int) -> Any:
        """See `Dataset`."""
        if not 0 <= start <= stop <= self.samples:
            raise InputError(f"{self.name}: samples {start} to {stop} asked for, of {self.samples}")
        return self._dataset.read(self._start + start, self._start + stop)

    def block_bytes(self, samples: int) -> int:
        """See `Dataset`."""
        return self._dataset.block_bytes(samples)

    def close(self) -> None:
        """The whole dataset is not ours to close."""


def hold_out(
    x: Any, targets: Array, fraction: float, seed: int, *, stratify: bool
) -> tuple[Any, Array, tuple[Any, Array] | None]:
    """Set a share of the samples aside: drawn (of each class, to `stratify`), or the last where they are read by block.

    Raises
    ------
    InputError, ValueError
        The share is not from 0 to less than 1, or leaves nothing to train on or to look at.
    """
    share = real_number(fraction, "validation_fraction")
    if not 0 <= share < 1:
        raise InputError(f"validation_fraction is {share:g}: it must be from 0 to less than 1")
    if not share:
        return x, targets, None
    if not is_read_by_block(x):
        kept, aside, of_kept, of_aside = train_test_split(
            x, targets, test_size=share, random_state=seed, stratify=targets if stratify else None
        )
        return kept, of_kept, (aside, of_aside)
    dataset = as_dataset(x)
    cut = int(dataset.samples) - max(1, round(share * dataset.samples))
    if cut < 1:
        raise InputError(
            f"validation_fraction {share:g} of {dataset.samples} samples leaves none to train on: lower it"
        )
    return Span(dataset, 0, cut), targets[:cut], (Span(dataset, cut, dataset.samples), targets[cut:])
