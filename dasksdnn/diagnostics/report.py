"""What a command wrote with --json as a page for people: its facts as tables, and pictures of what has a shape.

    infer      memory against the budget; where ranks took part, their time and what they sent, layer by layer
    train      loss and accuracy, epoch by epoch; changes of the pattern
    partition  who sends how much to whom, and the volume of each layer; or methods side by side
    bench      contenders beside each other

Whatever else a record holds is shown as a table: nothing is left out without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dasksdnn.diagnostics.page import bars, columns, heat, lines, number, page, section, table
from dasksdnn.errors import InputError
from dasksdnn.host import format_bytes

#: Rows of a table, at most, and elements of a list in a cell.
ROWS, ELEMENTS = 200, 6
#: Parts beyond which nobody could see a matrix.
PARTS = 128

Record = Mapping[str, Any]


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what a command wrote with --json.

    Raises
    ------
    InputError
        It cannot be read, or is none.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): name what a command wrote with --json") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}): name what a command wrote with --json") from error
    if not isinstance(record, dict) or not isinstance(record.get("command"), str):
        raise InputError(f"{path}: is not what a dasksdnn command wrote with --json: it says no command")
    return record


def render(record: Record, origin: str) -> str:
    """The page of a record.

    Parameters
    ----------
    record : mapping
        See `read_record`.
    origin : str
        What it was read from, for the reader.

    Raises
    ------
    InputError
        What a command of this name writes looks otherwise.
    """
    command = record["command"]
    try:
        made = [draw(record) for draw in _DRAWN] + list(_others(record))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{origin}: is not what 'dasksdnn {command}' writes with --json ({type(error).__name__}: {error}): write it anew"
        ) from error
    store = record.get("store")
    return page(f"dasksdnn {command}" + (f": {store}" if store else ""), f"from {origin}", made)


# -- sections; each takes what it knows of a record, and gives nothing where there is none


def _facts(record: Record) -> str:
    """Single values, and plain lists."""
    known = ("command", "store", *_KNOWN)
    rows = [(_name(k), _value(k, v)) for k, v in record.items() if k not in known and not _is_table(v)]
    return section("Result", table((), rows))


def _memory(record: Record) -> str:
    """The peak, beside what was projected and what was allowed."""
    plan = record.get("plan") or {}
    budget, projected = (plan.get(f"{name}_bytes", plan.get(name)) for name in ("budget", "projected"))
    peak = record.get("peak_rss_bytes")
    known = {"measured peak": peak, "projected": projected, "budget": budget}
    rows = {name: [value / (1 << 20)] for name, value in known.items() if isinstance(value, int)}
    return section("Memory", bars("The most that a process held", "MiB", rows)) if len(rows) > 1 else ""


def _epochs(record: Record) -> str:
    epochs = record.get("epochs")
    if not isinstance(epochs, list) or not epochs:
        return ""

    def curve(name: str) -> list[tuple[float, float]]:
        return [(e["epoch"], e[name]) for e in epochs if e[name] is not None]

    return section(
        "Epochs",
        lines("Loss", "epoch", "mean loss", {"training": curve("loss"), "validation": curve("validation_loss")}),
        lines("Accuracy", "epoch", "share that is right", {"training": curve("accuracy"), "validation": curve("validation_accuracy")}),
        _records(epochs),
    )  # fmt: skip


def _traffic(record: Record) -> str:
    plan = record.get("plan") or {}
    traffic = record.get("traffic") or plan.get("traffic")
    if not traffic:
        return ""
    kinds = {"computing": "compute_seconds", "waiting": "wait_seconds", "packing": "pack_seconds"}
    ranks = range(len(traffic["bytes"]))
    took = {f"rank {r}": [sum(map(sum, traffic[name][r])) for name in kinds.values()] for r in ranks}
    sent = {f"rank {r}": [sum(map(sum, traffic["bytes"][r])) / 1e6] for r in ranks}
    layers = [
        sum(way[k] for r in ranks for way in traffic["bytes"][r]) / 1e6 for k in range(len(traffic["bytes"][0][0]))
    ]
    return section(
        "Ranks",
        bars("Time of each rank", "s", took, list(kinds)),
        bars("Sent by each rank", "MB", sent),
        columns("Sent before each layer, forward and back", "layer", "MB", layers),
    )


def _recount(record: Record) -> str:
    counted = record.get("recount")
    if not counted:
        return ""
    nparts = int(counted["nparts"])
    sends = heat("Words a sample that parts send each other", "receiving part", "sending part", counted["send"])
    return section(
        "Words and messages, recounted",
        table((), [(_name(k), _value(k, v)) for k, v in counted.items() if not isinstance(v, list)]),
        sends if nparts <= PARTS else "",
        columns("Words a sample, before each layer", "layer", "words", counted["volume_per_layer"]),
    )


def _compared(record: Record) -> str:
    """Methods of partitioning."""
    compared = record.get("compare") or {}
    rows = compared.get("rows", [])
    parts: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row.get("volume") is not None:
            parts.setdefault(row["nparts"], {})[row["method"]] = [row["volume"]]
    pictures = [bars(f"Words a sample, {n} parts", "words", found) for n, found in parts.items()]
    most = max(parts, default=0)
    layers = {
        row["method"]: list(enumerate(row["volume_per_layer"], start=1))
        for row in rows
        if row["nparts"] == most and row.get("volume_per_layer")
    }
    pictures.append(lines(f"Words a sample, before each layer, {most} parts", "layer", "words", layers))
    single = [{name: value for name, value in row.items() if not isinstance(value, list)} for row in rows]
    facts = [(_name(k), _value(k, v)) for k, v in compared.items() if k != "rows"]
    return section("Methods", *pictures, _records(single), table((), facts))


def _cases(record: Record) -> str:
    """Benchmarks: a list of comparisons, or tables by title."""
    cases = record.get("cases") or []
    if isinstance(cases, dict):
        return "".join(section(title, _any(title, found)) for title, found in cases.items())
    made = []
    for case in cases:
        who = {
            f"{c['name']}, {c['threads']} thread{'s' * (c['threads'] > 1)}": [1e3 * c["seconds"]["median"]]
            for c in case["contenders"]
        }
        made.append(
            section(
                case["title"], bars("Median time", "ms", who), _records(case["contenders"]), _records(case["missing"])
            )
        )
    return "".join(made)


_DRAWN: tuple[Callable[[Record], str], ...] = (_facts, _memory, _epochs, _traffic, _recount, _compared, _cases)
#: What those draw, of the entries that are no single values.
_KNOWN = ("epochs", "traffic", "recount", "compare", "cases")


def _others(record: Record) -> Iterator[str]:
    """Everything else, as tables."""
    for name, value in record.items():
        if name not in _KNOWN and _is_table(value):
            yield section(_name(name).capitalize(), _any(name, value))


# -- values


def _is_table(value: Any) -> bool:
    """Whether a value has names, or is rows that have."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(row, dict) for row in value))


def _any(name: str, value: Any) -> str:
    """A table of whatever it is."""
    if isinstance(value, dict):
        return table((), [(_name(key), _value(key, held)) for key, held in value.items()])
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return _records(value)
    return table((), [(_name(name), _value(name, value))])


def _records(rows: Sequence[Record]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = [[_value(name, row.get(name)) for name in names] for row in rows[:ROWS]]
    if len(rows) > ROWS:
        shown.append([f"... and {len(rows) - ROWS:,} more", *[""] * (len(names) - 1)])
    return table([_name(name) for name in names], shown)


def _name(name: str) -> str:
    return name.replace("_", " ").removesuffix(" bytes").removesuffix(" rss")


def _value(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name.endswith("_bytes") or name in ("budget", "projected", "smallest")):
        return format_bytes(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{number(value)}" + (" s" if name.endswith("seconds") else "")
    if isinstance(value, dict):
        return ", ".join(f"{_name(str(key))} {_value(str(key), held)}" for key, held in value.items()) or "none"
    if isinstance(value, list):
        some = ", ".join(_value("", held) for held in value[:ELEMENTS])
        return f"{some}, ... ({len(value):,} in all)" if len(value) > ELEMENTS else some or "none"
    return str(value)
