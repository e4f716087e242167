"""Networks from safetensors files: arrays behind a header of JSON, nothing that could run, loaded a layer at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Network
from dasksdnn.sources.extras import need
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line
from dasksdnn.sources.pieces import Activations, Values, widened
from dasksdnn.sources.pruning import prune_network
from dasksdnn.sources.state import RECORD, from_state

_DTYPES = {
    "F16": "f2",
    "F32": "f4",
    "F64": "f8",
    "I8": "i1",
    "I16": "i2",
    "I32": "i4",
    "I64": "i8",
    "U8": "u1",
    "BOOL": "?",
}


def from_safetensors(
    path: str | os.PathLike[str],
    *,
    density: float | None = None,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
    activation: Activations | None = None,
    output_activation: str | Activation | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of a safetensors file; a layer's arrays are read when it is asked for.

    Parameters
    ----------
    path : str or Path
    density, scope : optional
        Prune while reading, as `from_torch` does.
    layers : sequence of str, optional
        Names before ".weight" and ".bias", first layer first; others are left out. By default all, in the order of the
        numbers in their names: the file keeps none.
    activation, output_activation : optional
        Between layers (relu), and at the end (identity); or a sequence, or "relu,tanh,identity": one a layer. By default
        what a file of `sdnn.export` says.
    dtype : numpy dtype, optional
        float32 or float64; by default the smaller that holds all.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        The file is damaged, claims more than it holds, or its arrays are no chain of layers. The library compares all
        sizes with the file's before anything is allocated.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, tempfile
    >>> from dasksdnn.sources.safetensors import from_safetensors
    >>> folder, net = tempfile.TemporaryDirectory(), sdnn.from_arrays([np.eye(2, 3)], activation="tanh")
    >>> path = sdnn.export(net, folder.name + "/net.safetensors", "safetensors")
    >>> from_safetensors(path).widths
    (3, 2)
    >>> folder.cleanup()
    """
    source = os.fspath(path)
    with _opened(source) as file:
        names = list(file.keys())
        tensors = {name: _values(source, name, file.get_slice(name)) for name in names}
        record = (file.metadata() or {}).get(RECORD)
    output = None if output_activation is None else str(output_activation)
    net = from_state(
        tensors,
        source,
        layers=layers,
        activation=activation,
        output_activation=output,
        record=record,
        in_order=False,
        dtype=dtype,
    )
    return prune_network(net, density, scope)


def _opened(path: str) -> Any:
    library = need("safetensors", f"{path}: safetensors")
    with naming_faults(path):
        open(path, "rb").close()  # the library's own words name no remedy
    try:
        return library.safe_open(path, framework="numpy")
    except library.SafetensorError as error:
        raise InputError(f"{path}: is not a sound safetensors file ({first_line(error)}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from None


def _values(path: str, name: str, entry: Any) -> Values:
    kind = entry.get_dtype()
    if kind == "BF16":  # NumPy has none
        return Values(tuple(entry.get_shape()), np.dtype(np.float32), partial(_load_bfloat16, path, name))
    if kind not in _DTYPES:
        raise InputError(f"{path}: {name!r} is of {kind}; convert it to F32")
    return Values(tuple(entry.get_shape()), np.dtype(_DTYPES[kind]), partial(_load, path, name))


def _load(path: str, name: str) -> Array:
    with _opened(path) as file:
        return widened(file.get_tensor(name))


def _load_bfloat16(path: str, name: str) -> Array:
    """Widen to float32, whose upper half a bfloat16 is."""
    need("torch", f"{path}: {name!r} is of BF16: reading it")
    with need("safetensors", path).safe_open(path, framework="pt") as file:
        values: Array = file.get_tensor(name).float().numpy()
        return values
