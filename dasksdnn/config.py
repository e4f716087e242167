"""Settings, kept in `dask.config` under `dasksdnn` (dasksdnn.yaml lists them with their defaults)."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any


def get(name: str) -> Any:
    """The value of a setting, such as "memory"; None where it is not set."""
    import dask.config

    # Defaults that were registered within `with dask.config.set(...)` are gone after it: hence the second way to them.
    return dask.config.get(f"dasksdnn.{name}", default=_defaults()[name])


@cache
def _defaults() -> dict[str, Any]:
    import dask.config
    import yaml

    defaults: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("dasksdnn.yaml").read_text())
    dask.config.update_defaults(defaults)
    return defaults["dasksdnn"]


def data_root() -> Path:
    """The folder for data that the user gave no place: the setting, `storage/data` of a checkout, or the user's data folder."""
    if (chosen := get("data-root")) is not None:
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "storage" / "spec").is_dir():
        return checkout / "storage" / "data"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "dasksdnn"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "dasksdnn"
