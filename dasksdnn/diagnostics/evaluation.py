"""Comparing outputs with what is right: categories of the Graph Challenge, or classes of labelled samples."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array


def compare_categories(outputs: str | Path, truth: str | Path) -> dict[str, Any]:
    """Compare the samples with a non-zero output with a file of categories.

    Returns
    -------
    dict
        `match`, `found` and `expected` (how many), and the lists `missing` and `unexpected`, counted from 1.
    """
    from dasksdnn.sources.graphchallenge import read_categories

    found = _categories(Path(outputs))
    right = read_categories(truth)
    missing, extra = np.setdiff1d(right, found) + 1, np.setdiff1d(found, right) + 1
    return {
        "match": not missing.size and not extra.size,
        "found": int(found.size),
        "expected": int(right.size),
        "missing": missing.tolist(),
        "unexpected": extra.tolist(),
    }


def accuracy(outputs: str | Path, labels: str | Path) -> dict[str, Any]:
    """Share of samples whose largest output is the labelled class: `samples`, `correct`, `accuracy`."""
    from dasksdnn.sources.datasets import open_dataset, read_labels

    if _is_list(Path(outputs)):
        raise InputError(
            f"{outputs}: is a list of categories; labels are compared with outputs, as infer --output keeps"
        )
    right = read_labels(labels)
    correct = 0
    with closing(open_dataset(outputs)) as dataset:
        if right.size != dataset.samples:
            raise InputError(
                f"{labels} has {right.size} labels, {outputs} has {dataset.samples} samples: they must be of the same data"
            )
        if right.size and not 0 <= right.min() <= right.max() < dataset.features:
            raise InputError(
                f"{labels}: labels run from {right.min()} to {right.max()}, the outputs are {dataset.features} classes"
            )
        for start in range(0, dataset.samples, dataset.block):
            stop = min(start + dataset.block, dataset.samples)
            correct += int((_rows(dataset, start, stop).argmax(axis=1) == right[start:stop]).sum())
    return {"samples": int(right.size), "correct": correct, "accuracy": correct / max(1, right.size)}


def _is_list(path: Path) -> bool:
    return path.suffix in (".tsv", ".txt") and not path.is_dir()


def _categories(path: Path) -> Array:
    from dasksdnn.sources.datasets import open_dataset
    from dasksdnn.sources.graphchallenge import read_categories

    if _is_list(path):
        return read_categories(path)
    found = []
    with closing(open_dataset(path)) as dataset:
        for start in range(0, dataset.samples, dataset.block):
            stop = min(start + dataset.block, dataset.samples)
            found.append(start + np.flatnonzero(_rows(dataset, start, stop).any(axis=1)))
    return np.concatenate([np.empty(0, np.int64), *found])


def _rows(dataset: Any, start: int, stop: int) -> Array:
    rows = dataset.read(start, stop)
    dense: Array = rows.toarray() if hasattr(rows, "toarray") else rows
    return dense
