"""Where a command may write: everything is checked before the work begins, so that no hour of it is lost at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dasksdnn.diagnostics.tables import is_device
from dasksdnn.errors import InputError, OutputExistsError


def check_outputs(
    overwrite: bool,
    *,
    stores: Iterable[Path | None] = (),
    files: Iterable[Path | None] = (),
    folders: Iterable[Path | None] = (),
    report: Path | None = None,
    inputs: Iterable[Path] = (),
) -> None:
    """Refuse output paths that exist, cannot be written, or would destroy something else.

    Parameters
    ----------
    overwrite : bool
        Whether what stands at an output path may be replaced: a Zarr store by a store, a file by a file, an exported folder
        by another.
    stores, files, folders : paths or None
        Zarr stores and arrays to make, plain files, and folders of matrices.
    report : path or None
        Of --json: it has been checked, but may be one of the others.
    inputs : paths
        What the command reads: it is never overwritten.

    Raises
    ------
    OutputExistsError, InputError
    """
    from dasksdnn.atomic import check_target

    taken = {os.path.realpath(path): "read" for path in inputs}
    kinds = {"store": stores, "file": files, "folder": folders}
    for path, kind in [(path, kind) for kind, paths in kinds.items() for path in paths]:
        if path is None:
            continue
        absolute = Path(os.path.abspath(path))
        check_target(absolute, overwrite)
        _check_replaced(absolute, kind)
        _check_permission(absolute)
        _check_distinct(path, taken)
    if report is not None:
        _check_distinct(report, taken)


def check_report(path: Path | None) -> None:
    """Refuse a report's path early where it cannot be written; an old report is replaced, devices are written to.

    Raises
    ------
    InputError
    """
    from dasksdnn.atomic import check_target

    if path is None or is_device(path):
        return
    absolute = Path(os.path.abspath(path))
    check_target(absolute, overwrite=True)
    _check_replaced(absolute, "file")
    _check_permission(absolute)
    if absolute.is_file() and not _is_report(absolute):
        raise OutputExistsError(f"{path} exists, is no JSON report, and is kept: choose another name for --json")


def _is_report(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) in (b"", b"{")


def _check_distinct(path: Path, taken: dict[str, str]) -> None:
    real = os.path.realpath(path)
    if real in taken:
        raise InputError(f"{path}: is {taken[real]} by this command too, and would be overwritten; choose another name")
    taken[real] = "written"


def _check_replaced(path: Path, kind: str) -> None:
    """Only like replaces like: a slip of the hand must not cost a folder of other things."""
    if not os.path.lexists(path):
        return
    if (kind != "file") != path.is_dir():
        here, new = ("folder", "file") if kind == "file" else ("file", kind)
        raise OutputExistsError(
            f"{path} is a {here} and is not replaced by a {new}: remove it yourself, or choose another name"
        )
    if kind == "file":
        return
    from dasksdnn.sources.folders import is_export

    if not (_is_zarr(path) if kind == "store" else is_export(path)):
        same = "a Zarr store" if kind == "store" else "exported matrices"
        raise OutputExistsError(
            f"{path} is a folder of other things than {same} and is kept: remove it yourself, or choose another name"
        )


def _is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array, damaged ones and empty folders included."""
    marks = ("zarr.json", ".zgroup", ".zarray", "manifest/zarr.json")
    return any((path / mark).is_file() for mark in marks) or not any(path.iterdir())


def _check_permission(path: Path) -> None:
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}: choose another place or change its mode")
