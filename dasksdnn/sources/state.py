"""Networks from named weights: state dicts of PyTorch, and safetensors files, which say nothing of order and activations.

0.weight  0.bias                                    dense
0.weight_orig  0.weight_mask  0.bias                dense, pruned by torch.nn.utils.prune (the bias may be, too)
0.weight.crow_indices  .col_indices  .values        CSR, as `dasksdnn export --layout csr` writes it
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Network
from dasksdnn.sources.matrices import first_line
from dasksdnn.sources.pieces import Activations, Piece, Values, assemble, masked, per_layer

#: Under this name our own exports say, as JSON, which layers there are, and their activations.
RECORD = "dasksdnn"

_CSR = ("crow_indices", "col_indices", "values")
_ENDINGS = (
    *(f".weight.{part}" for part in _CSR),
    *(f".{part}{end}" for part in ("weight", "bias") for end in ("_orig", "_mask", "")),
)


def from_state(
    tensors: Mapping[str, Values],
    source: str,
    *,
    layers: Sequence[str] | None = None,
    activation: Activations | None = None,
    output_activation: str | None = None,
    record: str | None = None,
    in_order: bool = True,
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of named arrays.

    Parameters
    ----------
    tensors : mapping of str to Values
    source : str
        The file, for faults.
    layers : sequence of str, optional
        Names before ".weight" and ".bias", first layer first; others are left out. By default all are taken.
    activation, output_activation : optional
        Between layers (by default what the record says, else relu), and at the end (identity); or a sequence, or
        "relu,tanh,identity": one a layer.
    record : str, optional
        What our own exports say of the network.
    in_order : bool
        Whether the order of `tensors` is that of the layers; else numbers in the names must tell it.
    dtype : numpy dtype, optional

    Raises
    ------
    InputError
        Naming the array or layer.
    """
    known = _read_record(record, source) if record is not None else None
    names = list(layers) if layers is not None else [name for name, _, _ in known] if known else None
    if names is None:
        names = _layer_names(tensors, source, in_order)
    if not names:
        raise InputError(f"{source}: holds no layer; a network needs at least one")
    if activation is None and known and len(known) == len(names):
        activation = [kind for _, kind, _ in known]
    elif activation is None:
        activation = "relu"
    if isinstance(activation, Activation) or (isinstance(activation, str) and "," not in activation):
        output_activation = output_activation or "identity"
    inputs = {name: width for name, _, width in known or ()}
    kinds = per_layer(activation, output_activation, len(names))
    pieces = [_piece(tensors, source, name, inputs.get(name), kind) for name, kind in zip(names, kinds, strict=True)]
    return assemble(pieces, source, dtype=dtype)


def write_record(layers: Sequence[tuple[str, str, int]]) -> str:
    """Say which layers there are: (name, activation, inputs) each."""
    return json.dumps({"layers": [{"name": n, "activation": a, "inputs": w} for n, a, w in layers]})


def _read_record(record: str, source: str) -> list[tuple[str, str, int]]:
    try:
        return [(str(e["name"]), str(e["activation"]), int(e["inputs"])) for e in json.loads(record)["layers"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{source}: what it says of its layers ({RECORD!r}) is damaged ({first_line(error)}); export it again"
        ) from None


def _layer_names(tensors: Mapping[str, Values], source: str, in_order: bool) -> list[str]:
    """All names before ".weight" and ".bias", each array belonging to one."""
    names: dict[str, None] = {}
    for key in tensors:
        ending = next((e for e in _ENDINGS if f".{key}".endswith(e)), None)
        if ending is None:
            remedy = "name the layers, first one first: --layers NAME,NAME (layers=)"
            raise InputError(f"{source}: {key!r} is neither weight nor bias of a layer; {remedy}")
        names[f".{key}".removesuffix(ending).removeprefix(".")] = None  # of a Linear alone, it is empty
    found = list(names)
    if in_order or len(found) < 2:
        return found
    if len({re.sub("[0-9]+", "0", name) for name in found}) > 1:  # alphabetical order would say nothing
        raise InputError(
            f"{source}: keeps no order of its layers, and their names ({', '.join(map(repr, found[:4]))}...) tell none; "
            "name them, first one first: --layers NAME,NAME (layers=)"
        )
    return sorted(found, key=lambda name: [int(n) for n in re.findall("[0-9]+", name)])


def _piece(tensors: Mapping[str, Values], source: str, name: str, inputs: int | None, activation: Any) -> Piece:
    label = f"{source}: {name or 'the layer'}"

    def get(part: str) -> Values | None:
        return tensors.get(f"{name}.{part}".removeprefix("."))

    def get_pruned(part: str) -> Values | None:
        original, mask = get(f"{part}_orig"), get(f"{part}_mask")
        return get(part) if original is None or mask is None else masked(original, mask, f"{label}: {part}")

    weights, parts = get_pruned("weight"), [get(f"weight.{part}") for part in _CSR]
    if weights is None and all(parts):
        weights = _csr(label, parts, inputs)
    if weights is None:
        there = ", ".join(map(repr, list(tensors)[:6])) + ("..." if len(tensors) > 6 else "")
        raise InputError(f"{label}: has no weights; there are {there or 'no arrays at all'}")
    return Piece(label, weights, get_pruned("bias"), activation)


def _csr(label: str, parts: list[Any], inputs: int | None) -> Values:
    crow, column, values = parts
    if inputs is None:
        raise InputError(f"{label}: is CSR, and nothing says how many inputs it has; export it with dasksdnn")
    if any(len(part.shape) != 1 for part in parts) or column.shape != values.shape or crow.shape[0] < 2:
        raise InputError(f"{label}: the arrays of its CSR weights do not fit each other; export it again")
    shape = (crow.shape[0] - 1, inputs)
    return Values(shape, values.dtype, partial(_load_csr, label, crow, column, values, shape))


def _load_csr(label: str, crow: Values, column: Values, values: Values, shape: tuple[int, int]) -> Any:
    return checked_csr(values.load(), column.load(), crow.load(), shape, label)


def checked_csr(values: Any, columns: Any, pointers: Any, shape: tuple[int, ...], label: str) -> Any:
    """A SciPy CSR array of another library's arrays, whose indices are checked: SciPy would read beyond the arrays."""
    try:
        if any(np.asarray(ids).dtype.kind not in "iu" for ids in (columns, pointers)):
            raise ValueError("its indices are no whole numbers")
        matrix = scipy.sparse.csr_array((values, columns, pointers), shape=shape)
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{label}: is no sound CSR matrix ({first_line(error)}); write it again") from None
    return matrix
