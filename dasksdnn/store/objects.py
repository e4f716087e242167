"""Raw objects of a store: the few reads below Zarr's arrays and groups that checking needs."""

from __future__ import annotations

import json
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync


def read_object(location: Any, key: str) -> bytes | None:
    """Bytes of one object; None where there is none."""
    buffer = sync(location.get(key, default_buffer_prototype()))
    return None if buffer is None else bytes(buffer.to_bytes())


def object_size(location: Any, key: str) -> int:
    """Bytes of one object, without reading it; 0 where there is none."""
    try:
        return int(sync(location.getsize(key)))
    except FileNotFoundError:
        return 0


def read_metadata(location: Any, path: str) -> dict[str, Any]:
    """The metadata (zarr.json) of an array or group.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is not a JSON object.
    """
    key = f"{path}/zarr.json".lstrip("/")
    found = read_object(location, key)
    if found is None:
        raise FileNotFoundError(f"{key} is missing")
    try:
        record = json.loads(found)
    except RecursionError as error:
        raise ValueError(f"{key} is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"{key} is not a JSON object")
    return record


def read_group(location: Any, path: str) -> dict[str, Any]:
    """The attributes of a group; raises as `read_metadata` does, and ValueError where it is no group of Zarr v3."""
    record = read_metadata(location, path)
    if record.get("zarr_format") != 3 or record.get("node_type") != "group":
        raise ValueError(f"{path or 'the root'} is not a Zarr v3 group")
    attributes = record.get("attributes")
    if not isinstance(attributes, dict):
        raise ValueError(f"{path or 'the root'} has no attributes")
    return attributes
