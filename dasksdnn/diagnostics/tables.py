"""Tables and reports: what a command found, for people on stdout and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np


def show(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values under a title, the values in one column; names are bold on a terminal."""
    wide = max(map(len, rows), default=0)
    click.secho(title, bold=True)
    for name, value in rows.items():
        click.echo(f"  {click.style(name.ljust(wide), dim=True)}  {value}".rstrip())


def show_grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns under a header: the first and the last are words, those between are numbers."""
    for number, line in enumerate(grid(header, rows)):
        click.echo(click.style(line, dim=True) if not number else line)


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table as `show_grid` prints it, the header's first."""
    table = [tuple(header), *map(tuple, rows)]
    wide = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(w) if 0 < i < len(row) - 1 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, wide, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def write_json(path: str | Path | None, record: Mapping[str, Any]) -> None:
    """Write what was printed as data, whole or not at all; nothing where no path is given."""
    from dasksdnn.atomic import replacing

    if path is None:
        return
    text = json.dumps(record, indent=1, default=_plain) + "\n"
    if is_device(path):
        with open(path, "w") as device:
            device.write(text)
        return
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(text)


def is_device(path: str | Path) -> bool:
    """Whether something that is neither a file nor a folder stands there, such as /dev/stdout or a pipe."""
    return Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir()


def some(numbers: Sequence[int], most: int = 10) -> str:
    """A list for people: "none", "3, 17", or the first few and how many there are."""
    if not numbers:
        return "none"
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown}, ... ({len(numbers):,} in all)"


def count(number: int, thing: str) -> str:
    """A number of things: "1 window", "1,200 windows"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
