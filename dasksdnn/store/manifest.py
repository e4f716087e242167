"""The manifest: which windows and generations make up a store, and a digest of everything in them.

It is the attributes of one Zarr group, hence one object that is written last and replaced in one step: what it names is
the store, whatever else lies beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dasksdnn.errors import CorruptStoreError, StoreError
from dasksdnn.network import Activation
from dasksdnn.store.encoding import ArrayEntry, brief, canonical_json
from dasksdnn.store.layout import FORMAT, STATE, STRUCTURE, VERSION, state_path, structure_path

#: Dtypes of a window's structure; its data and bias are of the network's dtype.
_STRUCTURE_DTYPES = {
    "offsets": ("int64",),
    "indptr": ("int64",),
    "indices": ("uint16", "uint32"),
    "rows": ("uint32",),
    "columns": ("uint32",),
}
#: Attributes that a commit may change: the manifest has them in place of the root's, so that both change in one step.
_COUNTED = ("edges", "partition")


@dataclass(frozen=True, slots=True)
class Window:
    """Layers `first` to `last` (0-based, `last` not included) of one part."""

    part: int
    number: int
    first: int
    last: int
    generation: int
    #: The arrays of `STRUCTURE`, those of `STATE`, and any other of the same generation of state.
    arrays: dict[str, ArrayEntry] = field(default_factory=dict)

    @property
    def extra(self) -> tuple[str, ...]:
        """Names of what the state holds beside `STATE`, as an optimizer's moments."""
        return tuple(name for name in self.arrays if name not in (*STRUCTURE, *STATE))

    def path(self, array: str) -> str:
        """Where in the store one of the window's arrays is."""
        if array in STRUCTURE:
            return structure_path(self.part, self.number, array)
        return state_path(self.part, self.number, self.generation, array)

    def label(self, array: str) -> str:
        """How errors name one of the window's arrays."""
        window = f"part {self.part}, window {self.number} (layers {self.first + 1} to {self.last}), array {array!r}"
        return window if array in STRUCTURE or not self.generation else f"{window} of generation {self.generation}"

    def as_json(self) -> dict[str, Any]:
        """Make the window's record."""
        return {
            "part": self.part,
            "window": self.number,
            "layers": [self.first, self.last],
            "generation": self.generation,
            "arrays": {name: entry.as_json() for name, entry in self.arrays.items()},
        }

    @classmethod
    def from_json(cls, record: Any) -> Window:
        """Read and check a record; raises ValueError (or KeyError, TypeError, AttributeError) for one that is malformed."""
        first, last = map(_count, record["layers"])
        numbers = (_count(record["part"]), _count(record["window"]), first, last, _count(record["generation"]))
        if first >= last:
            raise ValueError(f"window of layers {first} to {last}")
        arrays = {name: ArrayEntry.from_json(entry) for name, entry in record["arrays"].items()}
        for name in arrays:
            if not name.isidentifier():
                raise ValueError(f"array named {name!r}")
        for name in (*STRUCTURE, *STATE):
            if name not in arrays:
                raise ValueError(f"window without array {name!r}")
        return cls(*numbers, arrays)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that counts in a store."""

    generation: int
    #: Those of the root, with those of `_COUNTED` as they are in this generation.
    attributes: dict[str, Any]
    owner: ArrayEntry
    windows: tuple[Window, ...]
    #: Where training stands, in the trainer's own words; None where the store was not trained.
    training: dict[str, Any] | None = None
    #: As it stands in the store, hence of keys too that this release does not know; "" where none was written yet.
    digest: str = ""

    def as_json(self) -> dict[str, Any]:
        """Make the group attributes that stand in the store, digest included."""
        record: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "attributes": canonical_digest(self.attributes),
            "owner": self.owner.as_json(),
            "windows": [w.as_json() for w in self.windows],
        }
        if self.generation:
            record["counts"] = {name: self.attributes[name] for name in _COUNTED}
        if self.training is not None:
            record["training"] = self.training
        return {**record, "digest": canonical_digest(record)}


def resembled(name: str) -> str | None:
    """The array of `STATE` that a moment belongs to, "data" of "data_first"; None for a name of another kind."""
    value, _, moment = name.partition("_")
    return value if value in STATE and moment else None


def misfit(window: Window, name: str, size: int, dtype: str) -> str | None:
    """How an array of a window's state does not fit the window, or None; a moment must be like what it belongs to."""
    like = name if name in STATE else resembled(name)
    if like is None or (size, dtype) == (window.arrays[like].size, window.arrays[like].dtype):
        return None
    return (
        f"has {size} elements of {dtype}, not {window.arrays[like].size} of {window.arrays[like].dtype} as {like!r} has"
    )


def canonical_digest(record: Any) -> str:
    """SHA-256 of a JSON value in its canonical spelling."""
    return hashlib.sha256(canonical_json(record)).hexdigest()


def check_version(attributes: dict[str, Any], path: Any) -> None:
    """Refuse what is no store, or a store of a version that this release cannot read."""
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{path} is not a dasksdnn store: its attributes name no format {FORMAT!r}")
    version = attributes.get("version")
    if type(version) is not int or version < 1:
        raise CorruptStoreError(
            f"{path}: format version {version!r} is not a positive integer; restore the store's zarr.json"
        )
    if version > VERSION:
        raise StoreError(
            f"{path}: store format version {version} is newer than {VERSION}, the newest that this release reads; "
            "upgrade dasksdnn"
        )


def read_manifest(record: dict[str, Any], attributes: dict[str, Any], path: Any) -> Manifest:
    """Check and parse a manifest, and check that the store's attributes fit it.

    Parameters
    ----------
    record : dict
        Attributes of the store's `manifest` group.
    attributes : dict
        Attributes of the store's root group.
    path : path of the store, for errors.

    Raises
    ------
    CorruptStoreError
        Digests do not match, or something is malformed.
    StoreError
        The store is of a newer version, or not a chain of layers.
    """
    check_version(record, f"{path}/manifest")
    body = {key: value for key, value in record.items() if key != "digest"}
    try:
        if canonical_digest(body) != record.get("digest"):
            raise CorruptStoreError(f"{path}: the manifest does not match its own digest; restore it from a copy")
        attributes = attributes | _counts(record)
        if canonical_digest(attributes) != record["attributes"]:
            raise CorruptStoreError(
                f"{path}: the store's attributes (zarr.json) do not match the manifest; restore them from a copy"
            )
        windows = tuple(Window.from_json(w) for w in record["windows"])
        owner = ArrayEntry.from_json(record["owner"])
        generation, training = _count(record["generation"]), _training(record)
        manifest = Manifest(generation, attributes, owner, windows, training, record["digest"])
        _check_chain(attributes, path)
        fault = next(_faults(manifest), None)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptStoreError(
            f"{path}: the manifest is malformed ({brief(error)}); restore it from a copy"
        ) from error
    if fault:
        raise CorruptStoreError(
            f"{path}: the attributes and the manifest do not fit: {fault}; restore them from a copy"
        )
    return manifest


def _count(value: Any) -> int:
    """A JSON number that counts something."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is not a count")
    return value


def _counts(record: dict[str, Any]) -> dict[str, Any]:
    counts = record.get("counts", {})
    if not isinstance(counts, dict) or not counts.keys() <= set(_COUNTED):
        raise ValueError(f"'counts' is not an object of {' and '.join(_COUNTED)}")
    return counts


def _training(record: dict[str, Any]) -> dict[str, Any] | None:
    if not isinstance(record.get("training", {}), dict):
        raise ValueError("'training' is not an object")
    return record.get("training")


def _check_chain(attributes: dict[str, Any], path: Any) -> None:
    """Version 1 holds chains of layers; anything else is refused by name."""
    for k, source in enumerate(attributes["inputs"]):
        if source != k:
            raise StoreError(
                f"{path}: layer {k + 1} takes its input from {source}, not from the layer before it: format version 1 "
                "holds chains of layers only; upgrade dasksdnn, or write the network as a chain"
            )


def _faults(manifest: Manifest) -> Iterator[str]:
    """What does not fit, the first of which is reported."""
    a = manifest.attributes
    widths, nparts, layers = a["widths"], _count(a["nparts"]), len(a["widths"]) - 1
    for text in a["activations"]:
        Activation.parse(text)
    if layers < 1 or not len(a["inputs"]) == len(a["activations"]) == layers:
        yield f"{layers} layers with {len(a['inputs'])} inputs and {len(a['activations'])} activations"
    if not all(1 <= _count(n) < 1 << 32 for n in widths):
        yield "a layer's width is not from 1 to 2^32 - 1"
    if a["dtype"] not in ("float32", "float64"):
        yield f"dtype {a['dtype']!r}"
    if not (isinstance(a["partition"], dict) and isinstance(a["name"], str) and _count(a["edges"]) >= 0):
        yield "name, edges or partition is of another type"
    if manifest.owner.size != sum(widths) or manifest.owner.dtype not in ("int16", "int32"):
        yield f"array 'owner' has {manifest.owner.size} elements of {manifest.owner.dtype} for {sum(widths)} neurons"
    yield from _window_faults(manifest, nparts, layers)


def _window_faults(manifest: Manifest, nparts: int, layers: int) -> Iterator[str]:
    """Every part's windows must follow one another from the first layer to the last."""
    reached: dict[int, int] = {}
    if len({(w.part, w.number) for w in manifest.windows}) != len(manifest.windows):
        yield "a window is listed twice"
    for w in sorted(manifest.windows, key=lambda w: (w.part, w.first)):
        if reached.setdefault(w.part, 0) != w.first:
            yield f"part {w.part}, window {w.number} begins at layer {w.first + 1}, not at {reached[w.part] + 1}"
        reached[w.part] = w.last
        for name in (*STRUCTURE, *STATE):
            if w.arrays[name].dtype not in _STRUCTURE_DTYPES.get(name, (manifest.attributes["dtype"],)):
                yield f"{w.label(name)} is of {w.arrays[name].dtype}"
    if len(reached) != nparts or max(reached, default=0) != nparts - 1:
        yield f"the windows are of {len(reached)} parts, not of {nparts}"
    for part, last in reached.items():
        if last != layers:
            yield f"the windows of part {part} end at layer {last} of {layers}"
