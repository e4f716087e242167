"""Networks from matrices that other libraries made: in memory, in NPZ files, in Matrix Market files.

Files are opened twice: once here for their shapes, which costs a header, and once when their layer is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network, canonical_csr
from dasksdnn.sources.checks import check_number_dtype, float_dtype, real_number
from dasksdnn.sources.matrices import first_line, load_mtx, load_npz, mtx_header, npz_header, pydata_to_scipy

Path = str | os.PathLike[str]


def from_arrays(
    matrices: Sequence[Any],
    *,
    biases: Any = None,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    orientation: str = "outputs",
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of matrices that are in memory.

    Parameters
    ----------
    matrices : sequence
        A matrix a layer, first layer first: SciPy sparse, PyData sparse (COO, GCXS, DOK) or dense 2-d. Of a dense
        matrix the non-zero entries become the pattern.
    biases : None, float or sequence
        None is zero, a number is the bias of every neuron, a sequence holds a number or an array (outputs,) a layer.
    activation, output_activation : str or Activation
        Of the hidden layers, and of the last (None: the same).
    orientation : {"outputs", "inputs"}
        What the rows are: outputs, shape (outputs, inputs), or inputs, as in Keras and the Graph Challenge.
    dtype : numpy dtype or None
        float32 or float64; None is the smaller that holds every matrix's dtype (int32 and int64 need float64).

    Returns
    -------
    Network

    Raises
    ------
    InputError
        Naming the layer, for shapes that do not chain, dtypes, duplicates, NaN or infinite values, bad biases.
    """
    held = list(matrices)
    names = [f"layer {k + 1}" for k in range(len(held))]
    style = _Style.parse(biases, activation, output_activation, orientation, len(held))
    sparse = [_to_scipy(matrix, name) for matrix, name in zip(held, names, strict=True)]
    kind = _common_dtype([matrix.dtype for matrix in sparse], dtype)
    widths = _chain([style.turn_shape(matrix.shape) for matrix in sparse], names)
    layers = [style.layer(matrix, names[k], k, kind) for k, matrix in enumerate(sparse)]
    return Network(widths, layers.__getitem__, kind, "arrays", edges=sum(layer.edges for layer in layers))


def from_npz(
    files: Sequence[Path],
    *,
    biases: Any = None,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    orientation: str = "outputs",
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of files written by `scipy.sparse.save_npz`, a file a layer, read when the layer is asked for.

    Parameters are those of `from_arrays`; files are read with `allow_pickle=False`.

    Raises
    ------
    InputError
        Naming the file: here for one that is missing, is no such file, or does not chain; later for its content.
    """
    paths = [os.fspath(file) for file in files]
    style = _Style.parse(biases, activation, output_activation, orientation, len(paths))
    headers = [npz_header(path) for path in paths]
    kind = _common_dtype([header.dtype for header in headers], dtype)
    widths = _chain([style.turn_shape(header.shape) for header in headers], paths)
    return Network(widths, partial(_file_layer, paths, load_npz, style, kind), kind, "npz")


def from_mtx(
    files: Sequence[Path],
    *,
    biases: Any = None,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    orientation: str = "outputs",
    dtype: npt.DTypeLike = "float32",
) -> Network:
    """Make a network of Matrix Market files (.mtx, .mtx.gz), a file a layer, read when the layer is asked for.

    Parameters are those of `from_arrays`, except that `dtype` has to be said: text has none. A `pattern` file has
    weights 1; symmetric files are expanded.

    Raises
    ------
    InputError
        Naming the file, and the line where there is one: here for one that is missing, is no such file, is complex,
        or does not chain; later for its content.
    """
    paths = [os.fspath(file) for file in files]
    style = _Style.parse(biases, activation, output_activation, orientation, len(paths))
    kind = float_dtype(dtype)
    widths = _chain([style.turn_shape(mtx_header(path)[:2]) for path in paths], paths)
    return Network(widths, partial(_file_layer, paths, load_mtx, style, kind), kind, "matrix-market")


def _file_layer(paths: list[str], read: Any, style: _Style, dtype: np.dtype[Any], k: int) -> Layer:
    return style.layer(read(paths[k]), paths[k], k, dtype)


def _to_scipy(matrix: Any, name: str) -> Any:
    """Any 2-d matrix as SciPy sparse, nothing summed, nothing dropped."""
    if not scipy.sparse.issparse(matrix) and type(matrix).__module__.partition(".")[0] == "sparse":
        matrix = pydata_to_scipy(matrix, name)
    if not scipy.sparse.issparse(matrix):
        try:
            matrix = np.asarray(matrix)
        except ValueError as error:
            raise InputError(f"{name}: is not a matrix ({first_line(error)})") from None
    check_number_dtype(matrix.dtype, name)
    if matrix.ndim != 2:
        raise InputError(f"{name}: has {matrix.ndim} dimension{'s' * (matrix.ndim != 1)}; a matrix has 2")
    if min(matrix.shape) < 1:
        raise InputError(f"{name}: has shape {matrix.shape}; every layer needs at least one neuron")
    return matrix if scipy.sparse.issparse(matrix) else scipy.sparse.csr_array(matrix)


def _common_dtype(dtypes: list[np.dtype[Any]], wanted: npt.DTypeLike | None) -> np.dtype[Any]:
    if wanted is not None:
        return float_dtype(wanted)
    return np.result_type(np.float32, *dtypes)


def _chain(shapes: list[tuple[int, int]], names: list[str]) -> tuple[int, ...]:
    """Widths of layers of shape (outputs, inputs), each of which must read what the one before it makes."""
    for k in range(1, len(shapes)):
        if shapes[k][1] != shapes[k - 1][0]:
            raise InputError(
                f"{names[k]}: {shapes[k][0]} outputs x {shapes[k][1]} inputs does not follow {names[k - 1]}: "
                f"{shapes[k - 1][0]} outputs x {shapes[k - 1][1]} inputs; check their order and orientation"
            )
    return (shapes[0][1], *(shape[0] for shape in shapes))


@dataclass(frozen=True, slots=True)
class _Style:
    """Biases, activations and orientation: what a matrix lacks to be a layer."""

    biases: Any
    activation: Activation
    output_activation: Activation
    transposed: bool
    layers: int

    @classmethod
    def parse(cls, biases: Any, activation: Any, output: Any, orientation: str, layers: int) -> _Style:
        if not layers:
            raise InputError("a network needs at least one layer; the list of matrices is empty")
        if orientation not in ("outputs", "inputs"):
            raise InputError(f"orientation: {orientation!r} is unknown; say what the rows are, 'outputs' or 'inputs'")
        inner = Activation.parse(activation)
        if isinstance(biases, list | tuple) or (isinstance(biases, np.ndarray) and biases.ndim > 0):
            biases = list(biases)
            if len(biases) != layers:
                raise InputError(f"biases: {len(biases)} for {layers} layers; give one for each layer")
        elif biases is not None:
            biases = real_number(biases, "biases")
        last = inner if output is None else Activation.parse(output)
        return cls(biases, inner, last, orientation == "inputs", layers)

    def turn_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])

    def layer(self, matrix: Any, name: str, k: int, dtype: np.dtype[Any]) -> Layer:
        weights = canonical_csr(matrix.T if self.transposed else matrix, name)
        with np.errstate(over="ignore"):  # what becomes infinite is refused by Layer
            weights = weights.astype(dtype, copy=False)
        activation = self.output_activation if k == self.layers - 1 else self.activation
        return Layer(weights, self._bias(k, name, weights.shape[0], dtype), activation, name)

    def _bias(self, k: int, name: str, outputs: int, dtype: np.dtype[Any]) -> Array:
        bias = 0.0 if self.biases is None else self.biases[k] if isinstance(self.biases, list) else self.biases
        if not isinstance(bias, list | tuple) and not (isinstance(bias, np.ndarray) and bias.ndim):
            return np.full(outputs, 0.0 if bias is None else real_number(bias, f"{name}: bias"), dtype)
        held = np.asarray(bias)
        check_number_dtype(held.dtype, f"{name}: bias")
        with np.errstate(over="ignore"):
            return held.astype(dtype)
