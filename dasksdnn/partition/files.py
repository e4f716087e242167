"""Partitions as files, so that they can be kept, handed on, and brought from other tools.

    x.npz:  owner     int (inputs + all neurons,), layer after layer
            widths    int64 (L + 1,)
            metadata  one JSON object: format, version, pattern, and the fields of `Partition` beside `owner`

What a partition costs is never read from a file: it is counted anew. Nothing in a file is ever unpickled.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dasksdnn.atomic import replacing
from dasksdnn.errors import InputError
from dasksdnn.network import Array, Network
from dasksdnn.partition.partition import Partition

FORMAT = "dasksdnn-partition"
VERSION = 1

#: Fields that the metadata has no place for: arrays, what is counted anew, and what is so of one object only.
_APART = ("owner", "metrics", "reused")
_REMEDY = "save the partition again, or give a .npy or .npz of owner arrays"
_KINDS: dict[str, tuple[type, ...]] = {
    "nparts": (int,),
    "method": (str,),
    "epsilon": (int, float, type(None)),
    "seed": (int, type(None)),
    "seconds": (int, float),
}
#: Fields that files of earlier releases do not have.
_LATER: dict[str, tuple[type, ...]] = {
    "effort": (str, type(None)),
    "objective": (str, type(None)),
    "repeatable": (bool,),
    "notes": (list,),
}


def save(partition: Partition, path: str | Path, *, overwrite: bool = False) -> None:
    """See `Partition.save`."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(dump(partition))


def load(path: str | Path, net: Network) -> Partition:
    """See `Partition.load`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    return parse(content, net, path)


def dump(partition: Partition) -> bytes:
    """The content of a file."""
    kept = {f.name: getattr(partition, f.name) for f in fields(partition) if f.name not in _APART}
    metadata = {"format": FORMAT, "version": VERSION, "pattern": partition.metrics.pattern, **kept}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        owner=np.concatenate(partition.owner),
        widths=np.array([part.size for part in partition.owner]),
        metadata=np.array(json.dumps(metadata)),
    )
    return buffer.getvalue()


def parse(content: bytes, net: Network, path: str | Path) -> Partition:
    """Make a partition of a file's content; `path` is for errors, which are `InputError`."""
    arrays = _arrays(content, path)
    own = "metadata" in arrays
    made = _metadata(arrays, path) if own else {}
    if own:
        _check_widths(arrays.get("widths", np.empty(0)).ravel().tolist(), net, path)
    owner = [arrays["owner"]] if own else _in_order(arrays, path)
    if len(owner) == 1:
        owner = _split(owner[0], net, path)
    _check_widths([part.size for part in owner], net, path)
    pattern = made.pop("pattern", None)
    try:
        found = Partition.from_owner(net, owner, made.get("nparts"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if own and found.metrics.pattern != pattern:
        raise InputError(
            f"{path}: is of another network, whose layers are as wide but read other neurons: partition this one"
        )
    return replace(found, **made, reused=True) if own else found


def _arrays(content: bytes, path: str | Path) -> dict[str, Array]:
    try:
        opened = np.load(io.BytesIO(content), allow_pickle=False)
        return {"owner": opened} if isinstance(opened, np.ndarray) else {name: opened[name] for name in opened.files}
    except Exception as error:  # zipfile, zlib and numpy have a dozen ways to say that a file is damaged
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: is no partition, or damaged ({what}): {_REMEDY}") from error


def _metadata(arrays: Mapping[str, Array], path: str | Path) -> dict[str, Any]:
    """The fields of `Partition` that the file gives, and "pattern"; keys that this release does not know are ignored."""
    try:
        record = json.loads(str(arrays["metadata"]), parse_constant=_not_finite)
        if record["format"] != FORMAT or "owner" not in arrays:
            raise ValueError("it is of another format")
        newer = record["version"] > VERSION
        known = ["pattern", *(f.name for f in fields(Partition) if f.name not in _APART)]
        made = {name: record[name] for name in known if name in record}
        for name, value in made.items():
            kinds = {"pattern": (str,), **_KINDS, **_LATER}[name]
            if type(value) not in kinds or (type(value) is float and not math.isfinite(value)):
                raise ValueError(f"{name} is {value!r}")
        if "notes" in made:
            made["notes"] = tuple(map(str, made["notes"]))
        if missing := (_KINDS.keys() | {"pattern"}) - made.keys():
            raise ValueError(f"{min(missing)} is missing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata cannot be used ({error}): {_REMEDY}") from error
    if newer:
        raise InputError(f"{path}: format version {record['version']} is newer than {VERSION}: upgrade dasksdnn")
    return made


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _in_order(arrays: Mapping[str, Array], path: str | Path) -> list[Array]:
    """The arrays of a user's file, by the numbers in their names."""
    if len(arrays) == 1:
        return list(arrays.values())
    numbered = {int(m[1]): arrays[name] for name in arrays if (m := re.fullmatch(r"(?:owner|arr)_(\d{1,9})", name))}
    if not arrays or sorted(numbered) != list(range(len(arrays))):
        raise InputError(
            f"{path}: has arrays {', '.join(sorted(arrays)[:4]) or 'none'}: give one array, or owner_0 (of the inputs), owner_1, ..."
        )
    return [numbered[k] for k in range(len(numbered))]


def _split(flat: Array, net: Network, path: str | Path) -> list[Array]:
    if flat.shape != (sum(net.widths),):
        raise InputError(
            f"{path}: has shape {flat.shape}, the network has {sum(net.widths)} neurons, inputs included: "
            "give the part of each, layer after layer"
        )
    return np.split(flat, np.cumsum(net.widths)[:-1])


def _check_widths(widths: Sequence[int], net: Network, path: str | Path) -> None:
    if widths != list(net.widths):
        raise InputError(
            f"{path}: is for layers of {_some(widths)} neurons, the network has {_some(net.widths)}: partition this network"
        )


def _some(widths: Sequence[int]) -> str:
    return ", ".join(map(str, widths[:4])) + (", ..." if len(widths) > 4 else "")
