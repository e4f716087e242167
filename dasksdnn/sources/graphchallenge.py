"""The Graph Challenge's files as networks and category lists: one layer file at a time, never a whole network."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Layer, Network
from dasksdnn.sources.checks import float_dtype, real_number, whole_number
from dasksdnn.sources.files import naming_faults, read_integers
from dasksdnn.sources.generators import challenge_bias
from dasksdnn.sources.text import read_all_triplets


def graphchallenge(
    directory: str | os.PathLike[str],
    neurons: int,
    layers: int,
    *,
    bias: float | None = None,
    clip: float = 32.0,
    edges_per_neuron: int | None = 32,
    dtype: npt.DTypeLike = "float32",
) -> Network:
    r"""Read a network from files `n{neurons}-l{k}.tsv` or `.tsv.gz`, k = 1 .. layers, a layer when it is asked for.

    Parameters
    ----------
    directory : path
        Where the files are. They hold `input<TAB>output<TAB>value`, counted from 1: the transpose of our weights.
    neurons, layers : int
        Size of the network.
    bias : float or None
        Of every neuron; None is the challenge's own for this many neurons (`generators.challenge_bias`).
    clip : float
        Activations are min(max(z, 0), clip).
    edges_per_neuron : int or None
        Weights that a layer must have for each neuron, which finds truncated files; None accepts any number.
    dtype : numpy dtype
        float32 or float64.

    Returns
    -------
    Network
        Layers of shape (neurons, neurons).

    Raises
    ------
    InputError
        Here, where a file is missing; when a layer is loaded, for a bad line, a duplicate or a wrong count.

    Examples
    --------
    >>> import dasksdnn as sdnn, pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = pathlib.Path(folder.name, "n3-l1.tsv").write_text("1\t2\t0.5\n3\t1\t0.25\n")
    >>> net = sdnn.graphchallenge(folder.name, 3, 1, edges_per_neuron=None)
    >>> net[0].weights.toarray().tolist()
    [[0.0, 0.0, 0.25], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    >>> folder.cleanup()
    """
    neurons, layers = whole_number(neurons, "neurons"), whole_number(layers, "layers")
    expected = None if edges_per_neuron is None else whole_number(edges_per_neuron, "edges_per_neuron") * neurons
    files = _find_files(Path(directory), neurons, layers)
    offset = challenge_bias(neurons) if bias is None else real_number(bias, "bias")
    activation = Activation("clip", real_number(clip, "clip"))
    kind = float_dtype(dtype)
    load = partial(_load, files, neurons, expected, offset, activation, kind)
    edges = None if expected is None else expected * layers
    return Network([neurons] * (layers + 1), load, kind, f"graphchallenge-{neurons}", edges=edges)


def _find_files(directory: Path, neurons: int, layers: int) -> list[Path]:
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a directory; give the one that holds n{neurons}-l1.tsv and so on")
    with naming_faults(directory):
        present = set(os.listdir(directory))
    stems = [f"n{neurons}-l{k}.tsv" for k in range(1, layers + 1)]
    missing = [stem for stem in stems if stem not in present and stem + ".gz" not in present]
    if missing:
        raise InputError(
            f"{directory / missing[0]}: no such file, nor {missing[0]}.gz; "
            f"{len(missing)} of {layers} layer files are missing; fetch them or ask for fewer layers"
        )
    return [directory / (stem if stem in present else stem + ".gz") for stem in stems]


def _load(
    files: list[Path],
    neurons: int,
    expected: int | None,
    bias: float,
    activation: Activation,
    dtype: np.dtype[Any],
    k: int,
) -> Layer:
    weights = read_transposed(files[k], neurons, expected, dtype)
    return Layer(weights, np.full(neurons, bias, dtype), activation, files[k].name)


def read_transposed(path: Path, neurons: int, expected: int | None, dtype: npt.DTypeLike) -> Any:
    """Read one layer file as a `csr_array` (outputs, inputs), checked for its count and for duplicates."""
    limits, names = (neurons, neurons), ("input", "output")
    inputs, outputs, values = read_all_triplets(path, limits=limits, names=names, dtype=dtype)
    if expected is not None and values.size != expected:
        fault = "truncated?" if values.size < expected else "of another network?"
        raise InputError(f"{path}: {values.size:,} weights where {expected:,} were expected: {fault} Fetch it again")
    weights = scipy.sparse.coo_array((values, (outputs, inputs)), shape=(neurons, neurons)).tocsr()
    if weights.nnz != values.size:
        raise InputError(f"{path} {_name_duplicate(inputs, outputs)}")
    return weights


def _name_duplicate(inputs: Array, outputs: Array) -> str:
    """Blank lines can only be the last, so an entry's place tells its line."""
    order = np.lexsort((inputs, outputs))
    twin = (np.diff(inputs[order]) == 0) & (np.diff(outputs[order]) == 0)
    line = int(order[1:][twin].min())
    first = int(np.flatnonzero((inputs == inputs[line]) & (outputs == outputs[line]))[0])
    pair = f"input {inputs[line] + 1}, output {outputs[line] + 1}"
    return f"line {line + 1}: repeats {pair} of line {first + 1}; keep one"


def read_categories(path: str | os.PathLike[str]) -> npt.NDArray[np.int64]:
    """Read a category file: samples with a non-zero output, counted from 1, one a line.

    Returns
    -------
    ndarray of int64, shape (categories,)
        Sample numbers from 0, ascending.

    Raises
    ------
    InputError
        Naming the line that is not a sample number, or a sample that is listed twice. An empty file is no fault:
        it is possible that no sample has an output.
    """
    with naming_faults(path):
        if os.path.getsize(path) == 0:
            return np.empty(0, np.int64)
    ids = np.sort(read_integers(path, "sample", 1)) - 1
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise InputError(f"{path}: sample {ids[twice[0]] + 1} is listed twice; keep one")
    return ids


def write_categories(path: str | os.PathLike[str], ids: npt.ArrayLike) -> None:
    """Write sample numbers (from 0) as a category file: counted from 1, ascending, one a line.

    The file is written under another name and renamed, so it is there whole or not at all.

    Raises
    ------
    InputError
        Where the numbers are not whole numbers of at least 0, or the file cannot be written.
    """
    numbers = np.asarray(ids)
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.ndim != 1 or numbers.min() < 0):
        raise InputError("categories: not a list of whole numbers of at least 0")
    text = "".join(f"{n + 1}\n" for n in np.sort(numbers).tolist())
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)
