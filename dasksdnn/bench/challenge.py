"""The sparse DNN Graph Challenge as a piece of work: RadiX-Net with the challenge's weights, digits enlarged to its input."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.bench.work import Challenge
from dasksdnn.errors import InputError
from dasksdnn.sources.files import open_bytes
from dasksdnn.sources.generators import radixnet
from dasksdnn.sources.idx import open_idx, read_idx_header
from dasksdnn.sources.images import digits, enlarge

#: What may take part.
PEERS = ("graphblas", "scipy")


def challenge(neurons: int, layers: int, *, mnist: Path | None = None, samples: int | None = None) -> Challenge:
    """Make the network and the samples.

    Parameters
    ----------
    neurons, layers : int
        Neurons of a layer have to be a square: a sample is a picture.
    mnist : Path, optional
        IDX file of pictures, plain or gzip; without it, scikit-learn's digits.
    samples : int, optional
        The first ones only.

    Raises
    ------
    InputError
        A number or the file is not usable, or the file holds fewer samples.
    """
    net = radixnet(neurons, layers)
    side = math.isqrt(neurons)
    if side * side != neurons:
        raise InputError(
            f"neurons: {neurons} is not a square, so no picture fits the input; use 64, 256, 1024, 4096, ..."
        )
    if samples is not None and samples < 1:
        raise InputError(f"samples is {samples}: it must be at least 1")
    x = digits(side) if mnist is None else enlarge(_pictures(mnist, samples), side)
    if samples is not None and x.shape[0] < samples:
        raise InputError(f"{mnist or 'the digits'}: {x.shape[0]:,} samples are there, not {samples:,}; ask for fewer")
    return Challenge(net, x[:samples])


def _pictures(path: Path, samples: int | None) -> Any:
    """An IDX file's pictures (samples, height, width), or the first of them."""
    with open_bytes(str(path)) as file:
        _, shape, _ = read_idx_header(file, str(path))
    if len(shape) != 3:
        raise InputError(f"{path}: holds numbers of shape {shape}, not pictures (samples, height, width)")
    with closing(open_idx(str(path))) as rows:
        count = shape[0] if samples is None else min(samples, shape[0])
        return np.asarray(rows.read(0, count)).reshape(count, *shape[1:])
