"""Networks from PyTorch: modules that are a chain of Linear layers and activations, state dicts, and files of those.

A file of torch.save is a pickle, which may run code: only tensors are taken from it, unless the user trusts it.
"""

from __future__ import annotations

import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasksdnn.errors import InputError
from dasksdnn.network import Activation, Array, Network
from dasksdnn.sources.building import SUPPORTED, Builder
from dasksdnn.sources.extras import need
from dasksdnn.sources.files import naming_faults
from dasksdnn.sources.matrices import first_line
from dasksdnn.sources.pieces import Activations, Values, masked
from dasksdnn.sources.pruning import prune_network
from dasksdnn.sources.state import RECORD, checked_csr, from_state

#: Before this release, torch.load(weights_only=True) could be made to run code (CVE-2025-32434).
_SAFE = (2, 6)


def from_torch(
    module: Any,
    *,
    density: float | None = None,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
    activation: Activations | None = None,
    output_activation: str | Activation | None = None,
    entry: str | None = None,
    trusted: bool = False,
    dtype: npt.DTypeLike | None = None,
) -> Network:
    """Make a network of a PyTorch module, a state dict, or a file that torch.save wrote of one.

    Parameters
    ----------
    module : torch.nn.Module, mapping of str to Tensor, or path
        A `Sequential` (also nested) of `Linear` layers with dense or sparse weights and activations; `Dropout` is left
        out, as in evaluation. The pattern is that of the sparse weights, or the mask of `torch.nn.utils.prune`, else the
        non-zero weights.
    density : float, optional
        Prune to this share of the weights, by magnitude (`sources.pruning.prune_network`).
    scope : {"layer", "global"}
        Whether each layer is pruned to `density`, or all layers together.
    layers : sequence of str, optional
        Of a state dict: names before ".weight" and ".bias", first layer first; others are left out. By default all.
    activation, output_activation : optional
        Of a state dict: between layers (relu), and at the end (identity); or a sequence, or "relu,tanh,identity": one a
        layer. By default what a file of `sdnn.export` says.
    entry : str, optional
        Of a checkpoint that holds more than weights: the key of its state dict.
    trusted : bool
        Unpickle the file without limits: what is in it may run code on this machine. Needed for whole modules.
    dtype : numpy dtype, optional
        float32 or float64; by default the smaller that holds all.

    Returns
    -------
    Network
        A softmax at the end is left out, with a note (`Network.notes`): outputs are its logits.

    Raises
    ------
    InputError
        Naming the module or key, for anything that is no such chain; for a file that is damaged, or not trusted.

    Examples
    --------
    >>> import torch, dasksdnn as sdnn
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> net = sdnn.from_torch(model, density=0.5)
    >>> net.widths, net.edges
    ((8, 6, 2), 30)
    """
    torch = need("torch", "from_torch")
    source = "state dict"
    if isinstance(module, str | os.PathLike):
        source = os.fspath(module)
        module = _read(torch, source, trusted, entry)
    if isinstance(module, torch.nn.Module):
        if layers is not None or activation is not None or output_activation is not None:
            raise InputError("layers and activations are the module's own: leave these arguments to state dicts")
        net = _from_module(torch, module, source if source != "state dict" else type(module).__name__, dtype)
    elif isinstance(module, Mapping):
        net = _from_mapping(torch, module, source, layers, activation, output_activation, dtype)
    else:
        raise InputError(f"{source}: {type(module).__name__} is no module, state dict or path; give one of these")
    return prune_network(net, density, scope)


def _from_mapping(
    torch: Any, state: Mapping[str, Any], source: str, layers: Any, activation: Any, output: Any, dtype: Any
) -> Network:
    if not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        keys = ", ".join(repr(key) for key in list(state)[:8])
        raise InputError(
            f"{source}: holds more than tensors (or none): {keys}; name its state dict: --entry KEY (entry=)"
        )
    tensors = {str(name): _values(torch, tensor, f"{source}: {name}") for name, tensor in state.items()}
    record = _record(getattr(state, "_metadata", None))
    output = None if output is None else str(output)
    return from_state(
        tensors, source, layers=layers, activation=activation, output_activation=output, record=record, dtype=dtype
    )


def _record(metadata: Any) -> str | None:
    """What our own export says of the network, among what PyTorch notes of a state dict's modules; it may be anything."""
    for key in ("", RECORD):
        metadata = metadata.get(key) if isinstance(metadata, Mapping) else None
    return metadata if isinstance(metadata, str) else None


# -- modules


def _from_module(torch: Any, module: Any, source: str, dtype: npt.DTypeLike | None) -> Network:
    builder = Builder(source)
    for name, child in _flat(torch, module, ""):
        _add(torch, builder, f"{name or 'the module'} ({type(child).__name__})", child)
    return builder.network(dtype=dtype)


def _flat(torch: Any, module: Any, name: str) -> list[tuple[str, Any]]:
    """The modules of nested `Sequential`s, in order, with the names that a state dict has for them."""
    from torch.nn.utils.prune import BasePruningMethod

    if any(torch.nn.parameter.is_lazy(parameter) for parameter in module.parameters(recurse=False)):
        raise InputError(f"{name} ({type(module).__name__}): has no weights yet; call the module once, on a sample")
    if any(
        not isinstance(hook, BasePruningMethod)
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ):
        fault = "has a hook, which may change what it computes; remove it"
        raise InputError(f"{name or 'the module'} ({type(module).__name__}): {fault}")
    if not _is(module, torch.nn.Sequential):
        return [(name, module)]
    return [
        found
        for key, child in module.named_children()
        for found in _flat(torch, child, f"{name}.{key}".removeprefix("."))
    ]


def _is(module: Any, *kinds: Any) -> bool:
    """Whether a module is of one of the kinds, and neither its class nor itself has changed what it computes."""
    unchanged = "forward" not in vars(module)
    return unchanged and any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _add(torch: Any, builder: Builder, name: str, module: Any) -> None:
    nn = torch.nn
    if _is(module, nn.Linear):
        builder.product(name, _weights(torch, module, name), _bias(torch, module, name))
    elif _is(module, nn.ReLU):
        builder.bound(name, 0.0, math.inf)
    elif _is(module, nn.Hardtanh):  # ReLU6 is one
        builder.bound(name, float(module.min_val), float(module.max_val))
    elif _is(module, nn.LeakyReLU):
        builder.activate(name, Activation("leaky_relu", float(module.negative_slope)))
    elif _is(module, nn.Sigmoid):
        builder.activate(name, Activation("sigmoid"))
    elif _is(module, nn.Tanh):
        builder.activate(name, Activation("tanh"))
    elif _is(module, nn.Softmax, nn.LogSoftmax):
        if module.dim not in (None, 1, -1):
            raise builder.refuse(name, f"is along dimension {module.dim}, that of the samples; use dim=1")
        builder.softmax(name)
    elif _is(module, nn.Flatten):
        if module.start_dim != 1:
            raise builder.refuse(
                name, f"begins at dimension {module.start_dim}, not at 1: it does not keep samples apart"
            )
    elif not _is(module, nn.Identity, nn.Dropout):
        kinds = f"Sequential, Linear, Dropout, Flatten, and the activations {SUPPORTED}"
        raise builder.refuse(name, f"is not supported; a chain may hold {kinds}")


def _weights(torch: Any, linear: Any, name: str) -> Values:
    """A layer's weights as they would be computed now: what a pruning hook made of them may be from before an update."""
    return _parameter(torch, linear, "weight", name)


def _bias(torch: Any, linear: Any, name: str) -> Values | None:
    return None if linear.bias is None else _parameter(torch, linear, "bias", name)


def _parameter(torch: Any, linear: Any, part: str, name: str) -> Values:
    original, mask = (getattr(linear, f"{part}_{end}", None) for end in ("orig", "mask"))
    if original is None or mask is None:
        return _values(torch, getattr(linear, part), name)
    return masked(_values(torch, original, name), _values(torch, mask, name), f"{name}: {part}")


def _values(torch: Any, tensor: Any, name: str) -> Values:
    kinds = {torch.float64: np.float64, **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), np.float32)}
    kinds |= {torch.int64: np.int64, torch.int32: np.int32, torch.bool: np.bool_, torch.uint8: np.uint8}
    if tensor.dtype not in kinds or tensor.is_meta or tensor.is_quantized:
        raise InputError(f"{name}: values of {tensor.dtype} on {tensor.device} are not usable; convert them to float32")
    layouts = (torch.strided, torch.sparse_csr, torch.sparse_csc, torch.sparse_coo)
    if tensor.layout not in layouts or tensor.is_nested:
        raise InputError(f"{name}: layout {tensor.layout} is not usable; make it dense, or CSR")
    if tensor.layout != torch.strided and (tensor.sparse_dim(), tensor.dense_dim()) != (2, 0):
        raise InputError(f"{name}: is sparse, and no matrix of numbers; make it dense")
    if tensor.layout == torch.strided and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InputError(
            f"{name}: is expanded: it claims {tuple(tensor.shape)} and holds less; call contiguous() on it"
        )
    return Values(tuple(tensor.shape), np.dtype(kinds[tensor.dtype]), partial(_load, torch, tensor.detach(), name))


def _load(torch: Any, tensor: Any, name: str) -> Any:
    if tensor.layout == torch.strided:
        return _numpy(torch, tensor)
    if tensor.layout == torch.sparse_coo:
        (row, column), values = _numpy(torch, tensor._indices()), _numpy(torch, tensor._values())
        try:
            return scipy.sparse.coo_array((values, (row, column)), shape=tuple(tensor.shape))
        except ValueError as error:
            raise InputError(f"{name}: is no sound COO matrix ({first_line(error)})") from None
    values = _numpy(torch, tensor.values())
    if tensor.layout == torch.sparse_csr:
        pointers, columns = _numpy(torch, tensor.crow_indices()), _numpy(torch, tensor.col_indices())
        return checked_csr(values, columns, pointers, tuple(tensor.shape), name)
    pointers, rows = _numpy(torch, tensor.ccol_indices()), _numpy(torch, tensor.row_indices())
    return checked_csr(values, rows, pointers, tuple(tensor.shape)[::-1], name).T


def _numpy(torch: Any, tensor: Any) -> Array:
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    array: Array = tensor.cpu().resolve_neg().numpy()
    return array


# -- files


def _read(torch: Any, path: str, trusted: bool, entry: str | None) -> Any:
    if not trusted and tuple(int(n) for n in torch.__version__.split(".")[:2]) < _SAFE:
        raise InputError(
            f"{path}: PyTorch {torch.__version__} cannot read weights safely; pip install -U torch, or use safetensors"
        )
    if path.lower().endswith(".safetensors"):
        raise InputError(f"{path}: is no file of torch.save; use 'dasksdnn import safetensors' (from_safetensors)")
    loaded = _unpickle(torch, path, trusted)
    for key in entry.split(".") if entry else ():
        if not isinstance(loaded, Mapping) or key not in loaded:
            there = ", ".join(map(repr, loaded)) if isinstance(loaded, Mapping) else type(loaded).__name__
            raise InputError(f"{path}: has no entry {entry!r}; there is {there}")
        loaded = loaded[key]
    return loaded


def _unpickle(torch: Any, path: str, trusted: bool) -> Any:
    _refuse_packed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old file formats: reading them is all that we do
            return torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        if trusted:
            raise _damaged(path, error) from None
        remedy = "have it saved anew as safetensors or as model.state_dict(), or say --trusted (trusted=True) if you trust its maker"
        raise InputError(f"{path}: is damaged, or holds more than tensors, which could run code: {remedy}") from None
    except Exception as error:  # whatever a damaged file makes of PyTorch's readers, or a trusted one runs
        raise _damaged(path, error) from None


def _refuse_packed(path: str) -> None:
    """Refuse an archive that holds more than the file: torch.save packs nothing, and unpacked it may fill the memory."""
    with naming_faults(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            claimed = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return  # an old format, or one that PyTorch's readers will find unsound
    if claimed > size:
        raise InputError(f"{path}: has {size:,} bytes, and claims {claimed:,}; write it again with torch.save")


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(f"{path}: is not a sound file of torch.save ({first_line(error)[:120]}); fetch it again")
