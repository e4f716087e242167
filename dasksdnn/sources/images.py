"""Small pictures enlarged to a network's input, as the Graph Challenge made its inputs from MNIST.

`digits` needs no download: scikit-learn carries 1,797 real handwritten digits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Array
from dasksdnn.sources.blocks import BLOCK_BYTES, RawRows
from dasksdnn.sources.checks import check_number_dtype, real_number, whole_number

#: Of 255: where a pixel turns black in the Graph Challenge's inputs (measured against the published file).
THRESHOLD = 174.0


def digits(side: int = 32, threshold: float = THRESHOLD) -> Any:
    """Enlarge scikit-learn's 1,797 digits of 8 x 8 pixels to a network's input.

    Parameters
    ----------
    side : int
        Pixels a side; a sample has side * side features.
    threshold : float
        Of 255: pixels above it are 1, the others 0.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (1797, side * side)
        Each picture is flattened column by column, as the Graph Challenge does. `digit_labels` has the digits.
    """
    from sklearn.datasets import load_digits

    return enlarge(load_digits().images * (255 / 16), side, threshold)


def digit_labels() -> npt.NDArray[np.int64]:
    """The digit, 0 to 9, that each row of `digits` shows; shape (1797,)."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().target, np.int64)


def enlarge(images: npt.ArrayLike, side: int, threshold: float = THRESHOLD, *, block_bytes: int = 16 << 20) -> Any:
    """Enlarge pictures bilinearly, cut them to 0 and 1, and flatten them column by column.

    Parameters
    ----------
    images : array_like, shape (samples, height, width)
        Grey values, 0 to 255, of any real dtype.
    side : int
        Pixels a side of the result.
    threshold : float
        Pixels above it are 1, the others 0.
    block_bytes : int
        Memory for enlarged pictures before they are cut; more samples than fit are done in blocks.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (samples, side * side)

    Raises
    ------
    InputError
        For pictures that are not a 3-d array of finite real numbers.

    Notes
    -----
    How the challenge enlarged MNIST is not published. Bilinear interpolation with the outer edges on each other (not
    the corner pixels' centres), cut at 174 of 255, agrees best with its file for 1024 pixels:
    all but 0.8% of them.
    """
    grey = np.asarray(images)
    side, threshold = whole_number(side, "side"), real_number(threshold, "threshold")
    check_number_dtype(grey.dtype, "images")
    if grey.ndim != 3 or min(grey.shape[1:]) < 1:
        raise InputError(f"images: shape {grey.shape} is not (samples, height, width)")
    down, across = (_bilinear(size, side) for size in grey.shape[1:])
    step = max(1, block_bytes // (8 * side * side))
    blocks = [_cut(grey[k : k + step], down, across, threshold, k) for k in range(0, len(grey), step)]
    if not blocks:
        return scipy.sparse.csr_array((0, side * side), dtype=np.float32)
    return scipy.sparse.vstack(blocks, format="csr")


#: Bytes of enlarged pictures before they are cut, where they are read by block.
_STEP = 4 << 20


class Enlarged:
    """Pictures of a file, each block enlarged when it is read: a `Dataset` of as many features as a network has inputs.

    Parameters
    ----------
    pictures : RawRows
        Whose `picture` has two sizes.
    features : int
        A square.

    Raises
    ------
    InputError
        For numbers that are no pictures, or features that are no square.
    """

    def __init__(self, pictures: RawRows, features: int) -> None:
        self._side = math.isqrt(features)
        if len(pictures.picture) != 2:
            raise InputError(
                f"{pictures.name}: samples of shape {pictures.picture} are no pictures, which alone can be enlarged"
            )
        if self._side**2 != features:
            raise InputError(
                f"{pictures.name}: pictures are enlarged to squares, and {features:,} inputs are no square"
            )
        self._pictures = pictures
        self.name, self.samples, self.features = pictures.name, pictures.samples, features
        self.block, self.shared = max(1, BLOCK_BYTES // (8 * features)), pictures.shared

    def read(self, start: int, stop: int) -> Any:
        """See `Dataset`; a csr_array of float32."""
        grey = self._pictures.read(start, stop).reshape(-1, *self._pictures.picture)
        return enlarge(grey, self._side, block_bytes=_STEP)

    def block_bytes(self, samples: int) -> int:
        """See `Dataset`: as if all pixels were black."""
        pixels = samples * self.features
        # Of a step: enlarged, cut, found. Of all: columns and values, in pieces and put together.
        return int(self._pictures.block_bytes(samples)) + 32 * max(self.features, min(pixels, _STEP // 8)) + 16 * pixels

    def close(self) -> None:
        """See `Dataset`."""
        self._pictures.close()


def _bilinear(size: int, side: int) -> Array:
    """The matrix (side, size) that interpolates linearly between the centres of pixels, constant beyond the last."""
    place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size))), np.float32)


def _cut(grey: Array, down: Array, across: Array, threshold: float, start: int) -> Any:
    block = grey.astype(np.float32)
    wrong = ~np.isfinite(block).all(axis=(1, 2))
    if wrong.any():
        raise InputError(f"images: picture {start + int(wrong.argmax())} has a NaN or infinite pixel")
    # across @ picture.T @ down.T is the enlarged picture, transposed: flattened, it runs column by column.
    black = (across @ block.transpose(0, 2, 1) @ down.T > threshold).reshape(len(block), -1)
    found = np.flatnonzero(black)
    ends = np.concatenate([[0], np.cumsum(black.sum(axis=1))])
    columns = (found % black.shape[1]).astype(np.int32)
    return scipy.sparse.csr_array((np.ones(found.size, np.float32), columns, ends.astype(np.int32)), shape=black.shape)
