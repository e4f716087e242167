"""Finding a store and its generations: the folder, the attributes of its groups, and the manifests that it keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import zarr

from dasksdnn.errors import CorruptStoreError, StoreError
from dasksdnn.store.encoding import brief
from dasksdnn.store.layout import CHECKPOINTS
from dasksdnn.store.objects import object_size, read_group

_NUMBER = re.compile("[0-9]{6}|[1-9][0-9]{6,}")


def generations(path: str | Path) -> list[int]:
    """Numbers of the generations that a store keeps, the newest last: what `open_store` can open.

    Raises
    ------
    StoreError, CorruptStoreError
        As `open_store` does.
    """
    newest = group_attributes(locate(path), "manifest", path).get("generation")
    if type(newest) is not int:
        raise CorruptStoreError(f"{path}: the manifest names no generation; restore it from a copy")
    # What is numbered above the manifest's was never committed: its writer was killed.
    return sorted({number for number in copies(Path(path)) if number < newest} | {newest})


def copies(root: Path) -> list[int]:
    """Numbers of the manifests that stand in a store's `checkpoints`, committed or not."""
    names = (copy.parent.name for copy in root.glob(f"{CHECKPOINTS}/*/zarr.json"))
    return [int(name) for name in names if _NUMBER.fullmatch(name)]


def locate(path: str | Path) -> Any:
    """Open the folder of a store for reading, or say why there is none."""
    root = Path(path)
    try:
        if not root.exists():
            raise StoreError(f"{path} does not exist: make a store with 'dasksdnn generate', 'import' or 'partition'")
        if not root.is_dir():
            raise StoreError(f"{path} is a file, not a store: name the store's folder")
    except OSError as error:
        raise StoreError(f"{path} cannot be looked at ({brief(error)}): check the path and its permissions") from error
    return zarr.storage.LocalStore(root.absolute(), read_only=True)


def group_attributes(location: Any, group: str, path: Any) -> dict[str, Any]:
    """Read the attributes of one of a store's groups ("": the root), or say what is wrong with them."""
    try:
        return read_group(location, group)
    except PermissionError as error:
        raise StoreError(f"{path}: no permission to read it; change its permissions") from error
    except FileNotFoundError as error:
        if group:
            raise CorruptStoreError(
                f"{path}: the manifest is missing: the store was never completed, or is damaged; write it again or restore it"
            ) from error
        if object_size(location, "manifest/zarr.json"):
            raise CorruptStoreError(f"{path}: the root's zarr.json is missing; restore it from a copy") from error
        raise StoreError(f"{path} is not a dasksdnn store: it has no zarr.json; name the store's own folder") from error
    except (OSError, ValueError) as error:
        raise CorruptStoreError(
            f"{path}: {group or 'the root'}/zarr.json cannot be used ({brief(error)}); restore it from a copy"
        ) from error
