"""Libraries of other formats: they are extras, imported when a file of their format is at hand."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dasksdnn.errors import InputError


def need(library: str, use: str) -> Any:
    """Import a library of the extra `formats`, or say how to get it.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise InputError(f"{use} needs {library}, which is not installed: pip install 'dasksdnn[formats]'") from None
