"""Networks from matrices that other libraries made: in memory, in NPZ files, in Matrix Market files.

Files are opened twice: once here for their shapes, which costs a header, and once when their layer is asked for.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network, canonical_csr
from dasksdnn.sources.checks import check_number_dtype, float_dtype, real_number
from dasksdnn.sources.folders import read_bias, read_index
from dasksdnn.sources.matrices import load_mtx, load_npz, mtx_header, npz_header
from dasksdnn.sources.pieces import Activations, chain, common_dtype, per_layer, to_scipy

Path = str | os.PathLike[str]


def from_arrays(
    matrices: Sequence[Any],
    *,
    biases: Any = None,
    activation: Activations = "relu",
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
        Of the hidden layers, and of the last (None: the same). A sequence, or "relu,tanh,identity", has one a layer.
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

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, scipy.sparse
    >>> first, last = scipy.sparse.csr_array(np.eye(3, 4)), np.array([[0.5, 0.0, 2.0]])
    >>> net = sdnn.from_arrays([first, last], biases=[0.1, -1.0], output_activation="identity")
    >>> net.widths, net.edges, net[1].bias.tolist()
    ((4, 3, 1), 5, [-1.0])
    """
    held = list(matrices)
    names = [f"layer {k + 1}" for k in range(len(held))]
    style = _Style.parse(biases, activation, output_activation, orientation, len(held))
    sparse = [to_scipy(matrix, name) for matrix, name in zip(held, names, strict=True)]
    kind = common_dtype([matrix.dtype for matrix in sparse], dtype)
    widths = chain([style.turn_shape(matrix.shape) for matrix in sparse], names)
    layers = [style.layer(matrix, names[k], k, kind) for k, matrix in enumerate(sparse)]
    return Network(widths, layers.__getitem__, kind, "arrays", edges=sum(layer.edges for layer in layers))


def from_npz(
    files: Sequence[Path],
    *,
    biases: Any = None,
    activation: Activations | None = None,
    output_activation: str | Activation | None = None,
    orientation: str = "outputs",
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of files written by `scipy.sparse.save_npz`, a file a layer, read when the layer is asked for.

    Parameters are those of `from_arrays`; files are read with `allow_pickle=False`. A folder of `sdnn.export` alone stands
    for its files, and has biases and activations of its own.

    Raises
    ------
    InputError
        Naming the file: here for one that is missing, is no such file, or does not chain; later for its content.
    """
    paths, _, biases, activation = _listed(files, biases, activation)
    style = _Style.parse(biases, activation, output_activation, orientation, len(paths))
    headers = [npz_header(path) for path in paths]
    kind = common_dtype([header.dtype for header in headers], dtype)
    widths = chain([style.turn_shape(header.shape) for header in headers], paths)
    return Network(widths, partial(_file_layer, paths, load_npz, style, kind), kind, "npz")


def from_mtx(
    files: Sequence[Path],
    *,
    biases: Any = None,
    activation: Activations | None = None,
    output_activation: str | Activation | None = None,
    orientation: str = "outputs",
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of Matrix Market files (.mtx, .mtx.gz), a file a layer, read when the layer is asked for.

    Parameters are those of `from_npz`, except that `dtype` is float32 unless it is said, or an exported folder says it:
    text has none. A `pattern` file has weights 1; symmetric files are expanded.

    Raises
    ------
    InputError
        Naming the file, and the line where there is one: here for one that is missing, is no such file, is complex,
        or does not chain; later for its content.
    """
    paths, said, biases, activation = _listed(files, biases, activation)
    style = _Style.parse(biases, activation, output_activation, orientation, len(paths))
    kind = float_dtype(dtype or said)
    widths = chain([style.turn_shape(mtx_header(path)[:2]) for path in paths], paths)
    return Network(widths, partial(_file_layer, paths, load_mtx, style, kind), kind, "matrix-market")


def _listed(files: Sequence[Path], biases: Any, activation: Any) -> tuple[list[str], str, Any, Activations]:
    """The files of a network, their dtype, biases and activations: as given, or as the folder says that stands for them."""
    paths = [os.fspath(file) for file in ([files] if isinstance(files, str | os.PathLike) else files)]
    if len(paths) != 1 or not os.path.isdir(paths[0]):
        return paths, "float32", biases, "relu" if activation is None else activation
    folder = pathlib.Path(paths[0])
    layers, dtype = read_index(folder)
    if biases is None:
        biases = [read_bias(folder / layer.bias) for layer in layers]
    own = [layer.activation for layer in layers]
    return [str(folder / layer.weights) for layer in layers], dtype, biases, own if activation is None else activation


def _file_layer(paths: list[str], read: Any, style: _Style, dtype: np.dtype[Any], k: int) -> Layer:
    return style.layer(read(paths[k]), paths[k], k, dtype)


@dataclass(frozen=True, slots=True)
class _Style:
    """Biases, activations and orientation: what a matrix lacks to be a layer."""

    biases: Any
    activations: list[Activation]
    transposed: bool

    @classmethod
    def parse(cls, biases: Any, activation: Any, output: Any, orientation: str, layers: int) -> _Style:
        if not layers:
            raise InputError("a network needs at least one layer; the list of matrices is empty")
        if orientation not in ("outputs", "inputs"):
            raise InputError(f"orientation: {orientation!r} is unknown; say what the rows are, 'outputs' or 'inputs'")
        activations = per_layer(activation, output, layers)
        if isinstance(biases, list | tuple) or (isinstance(biases, np.ndarray) and biases.ndim > 0):
            biases = list(biases)
            if len(biases) != layers:
                raise InputError(f"biases: {len(biases)} for {layers} layers; give one for each layer")
        elif biases is not None:
            biases = real_number(biases, "biases")
        return cls(biases, activations, orientation == "inputs")

    def turn_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])

    def layer(self, matrix: Any, name: str, k: int, dtype: np.dtype[Any]) -> Layer:
        weights = canonical_csr(matrix.T if self.transposed else matrix, name)
        with np.errstate(over="ignore"):  # what becomes infinite is refused by Layer
            weights = weights.astype(dtype, copy=False)
        return Layer(weights, self._bias(k, name, weights.shape[0], dtype), self.activations[k], name)

    def _bias(self, k: int, name: str, outputs: int, dtype: np.dtype[Any]) -> Array:
        bias = 0.0 if self.biases is None else self.biases[k] if isinstance(self.biases, list) else self.biases
        if not isinstance(bias, list | tuple) and not (isinstance(bias, np.ndarray) and bias.ndim):
            return np.full(outputs, 0.0 if bias is None else real_number(bias, f"{name}: bias"), dtype)
        held = np.asarray(bias)
        check_number_dtype(held.dtype, f"{name}: bias")
        with np.errstate(over="ignore"):
            return held.astype(dtype)
