"""`evolve`: a store's pattern is changed by a rule of `training.evolution` and becomes the store's newest generation.

    layer k of all parts --rule--> new pattern --cut--> open window of part 0 --(same layers as before)--> window 0007
    with its moments                                    open window of part 1 ...                          state-000004

Layers pass one at a time. Who owns what stays; windows get new numbers, so that earlier generations keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse
import zarr

from dasksdnn.compiling import warm_up
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.network import Array, Layer
from dasksdnn.partition.metrics import Metrics, Recount
from dasksdnn.sources.checks import whole_number
from dasksdnn.store.blocks import Order, RowBlock, cut, row_order
from dasksdnn.store.checkpoints import changing, replace_manifest
from dasksdnn.store.encoding import write_array
from dasksdnn.store.layout import STATE, state_path, structure_path
from dasksdnn.store.manifest import Window
from dasksdnn.store.reader import Store
from dasksdnn.store.writer import write_structure
from dasksdnn.training.evolution import Change, draw_key, merge, prune, rewire, warm_up_calls
from dasksdnn.training.stored import StoredLayer, moments_of, read_layer, supernodes

#: Rules, by name.
METHODS = ("magnitude", "set", "rigl")

#: Of candidate edges of layer k (0-based): see `training.evolution.Gradient`.
LayerGradient = Callable[[int, Array, Array], Array]
_Rule = Callable[[StoredLayer], Change]


@dataclass(frozen=True, slots=True)
class Evolved:
    """What a change of pattern did.

    Attributes
    ----------
    edges_before, edges_after : int
    volume_before, volume_after : int
        Words received per sample over all layers, the first included.
    dropped, grown : int
        Edges that went and came.
    rows_before, rows_after : float
        Mean number of rows of a supernode (rows of one part with the same columns, stored together).
    """

    edges_before: int
    edges_after: int
    volume_before: int
    volume_after: int
    dropped: int
    grown: int
    rows_before: float
    rows_after: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def evolve(
    store: Store,
    method: str,
    *,
    epoch: int,
    seed: int,
    share: float = 0.3,
    target: float | Sequence[float] | None = None,
    new_communication: bool = True,
    gradient: LayerGradient | None = None,
    keep: int = 2,
    protect: Collection[int] = (),
    training: Callable[[Evolved], dict[str, Any]] | None = None,
    listener: Listener = ignore,
) -> tuple[Store, Evolved]:
    """Drop and grow edges of every layer, as the store's newest generation; moments go with their edges.

    Nothing counts until all of it is safe on the disk; whatever ends this early leaves the store as it was. Hold
    `store.checkpoints.writing` meanwhile. Memory is that of a layer and of one window a part.

    Parameters
    ----------
    store : Store
        Opened at its newest generation.
    method : {"magnitude", "set", "rigl"}
        Drop the smallest weights of each layer (`evolution.prune`); or of each row, and grow as many, at random or where the
        gradient is largest (`evolution.rewire`).
    epoch, seed : int
        Of what is drawn. The same for any partition, but where `new_communication` is False.
    share : float
        Of each row, for "set" and "rigl" (`evolution.drop_share`).
    target : float or sequence of float
        Density of each layer, or of all, for "magnitude" (`evolution.target_density`).
    new_communication : bool
        False: grow only at columns that a row's part owns or receives already, so that the volume cannot rise. Rows that
        have no such column left keep what they would have dropped.
    gradient : callable (layer, rows, columns) -> array
        For "rigl": of edges that are not there, the sum over samples of delta[row, s] * x[column, s]. `layer` is 0-based;
        layers come in turn, each once, by (row, column) in the network's own numbering.
    training : callable (Evolved) -> dict, optional
        Gives where training stands.
    keep, protect
        As for `store.checkpoints.commit`.
    listener : callable
        Told of each layer.

    Returns
    -------
    Store
        Opened anew. Regrown edges and their moments are zero.
    Evolved

    Raises
    ------
    InputError
        An argument, or what the gradient gives, cannot be used.
    StoreError
        The disk is full, there is no permission, or the store has changed since it was opened.
    CorruptStoreError
    """
    rule = _rule(store, method, epoch, seed, share, target, new_communication, gradient)
    if keep < 1:
        raise InputError(f"keep {keep} is not usable: at least 1 generation stays, the new one")
    warm_up(warm_up_calls(store.dtype), listener)
    with changing(store) as generation:
        rewriter = _Rewriter(store, generation)
        for k in range(len(store)):
            layer = read_layer(store, k, rewriter.moments)
            rewriter.add(layer, rule(layer))
            listener(Progress("evolve", k + 1, len(store), "layers"))
        metrics, evolved = rewriter.result()
        changed = with_attributes(store, _attributes(store, evolved, metrics))
        new = replace_manifest(
            changed, rewriter.windows, training=training(evolved) if training else None, keep=keep, protect=protect
        )
    return new, evolved


def with_attributes(store: Store, attributes: dict[str, Any]) -> Store:
    """Give the same opened store, for which `replace_manifest` writes other attributes.

    Only `edges` and `partition` may be others: those of another generation, to return to its windows.
    """
    return Store(store.path, store.location, replace(store.manifest, attributes=attributes))


class _Rewriter:
    """Layers with a new pattern go in; full windows are written, each of the same layers as the one that it follows."""

    def __init__(self, store: Store, generation: int) -> None:
        self.store, self.generation = store, generation
        self.location = zarr.storage.LocalStore(store.path)
        self.moments = moments_of(store)
        self.windows: list[Window] = []
        self.number = [_free_number(store, part) for part in range(store.nparts)]
        self.open: list[list[tuple[RowBlock, dict[str, Array]]]] = [[] for _ in range(store.nparts)]
        self.before: Order = store.order(0)
        self.count = Recount(store.nparts)
        self.totals = np.zeros(6, np.int64)

    def add(self, layer: StoredLayer, change: Change) -> None:
        """Take one layer, in turn."""
        k, owner = layer.number, self.store.owner
        pattern = merge(layer.weights, change)
        source = np.append(layer.source, layer.weights.nnz)
        # Positions pass through `cut` as float64, which holds every one exactly: a layer has weights of a float type.
        positions = scipy.sparse.csr_array(
            (source[pattern.data].astype(np.float64), pattern.indices, pattern.indptr), shape=pattern.shape
        )
        made = Layer(positions, np.zeros(pattern.shape[0]), self.store.activations[k], f"layer {k + 1}")
        after = row_order(made, owner[k + 1], self.store.nparts)
        blocks = list(cut(k, made, self.before, after))
        self.count.add(made.weights, owner[k], owner[k + 1])
        self.before = after
        self.totals += [
            layer.weights.nnz, change.dropped, change.grown, layer.received, layer.supernodes, supernodes(blocks)
        ]  # fmt: skip
        for block in blocks:
            self._open(block, layer)

    def _open(self, block: RowBlock, layer: StoredLayer) -> None:
        """Add a block with its values to the open window of its part; write the window where it is full."""
        place = block.data.astype(np.int64)
        values = {name: stored[place] for name, stored in layer.entries.items()}
        values |= {name: stored[block.rows] for name, stored in layer.neurons.items()}
        moments = {name: values[name] for name in self.moments}
        self.open[block.part].append((replace(block, data=values["data"], bias=values["bias"]), moments))
        if self.store.window(block.part, block.layer).last == block.layer + 1:
            self._write(block.part)

    def _write(self, part: int) -> None:
        opened, self.open[part] = self.open[part], []
        number, self.number[part] = self.number[part], self.number[part] + 1
        blocks = [block for block, _ in opened]
        arrays = write_structure(self.location, blocks, lambda name: structure_path(part, number, name))
        for name in (*STATE, *self.moments):
            values = [getattr(block, name) if name in STATE else moments[name] for block, moments in opened]
            path = state_path(part, number, self.generation, name)
            arrays[name] = write_array(self.location, path, np.concatenate(values))
        self.windows.append(Window(part, number, blocks[0].layer, blocks[-1].layer + 1, self.generation, arrays))

    def result(self) -> tuple[Metrics, Evolved]:
        """What the new pattern costs, and what has changed."""
        edges, dropped, grown, volume, *nodes = self.totals.tolist()
        rows = sum(self.store.widths[1:])
        before, after = (rows / count for count in nodes)
        metrics = self.count.result()
        evolved = Evolved(edges, edges - dropped + grown, volume, metrics.volume, dropped, grown, before, after)
        return metrics, evolved


def _rule(
    store: Store,
    method: str,
    epoch: int,
    seed: int,
    share: float,
    target: float | Sequence[float] | None,
    new_communication: bool,
    gradient: LayerGradient | None,
) -> _Rule:
    """Check the arguments, and make of them what is done to each layer."""
    if method not in METHODS:
        raise InputError(f"method {method!r} cannot change a pattern: use one of {', '.join(METHODS)}")
    if method == "magnitude":
        densities = _densities(target, len(store))
        return lambda layer: prune(layer.weights, densities[layer.number])
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}: give a share of each row's weights from 0 to 1")
    drawn, at = whole_number(seed, "seed", 0), whole_number(epoch, "epoch", 0)
    if method == "rigl" and gradient is None:
        raise InputError("method 'rigl' grows where the gradient is largest: give a gradient, or use method 'set'")

    def rule(layer: StoredLayer) -> Change:
        asked = partial(gradient, layer.number) if method == "rigl" and gradient is not None else None
        panels = None if new_communication else layer.panels
        return rewire(layer.weights, share, draw_key(drawn, at, layer.number), panels=panels, gradient=asked)

    return rule


def _densities(target: float | Sequence[float] | None, layers: int) -> list[float]:
    given: Any = [target] * layers if target is None or np.isscalar(target) else target
    if len(given) != layers or not all(density is not None and 0 < density <= 1 for density in given):
        raise InputError(f"target is {target}: give a density above 0 and up to 1, or one for each of {layers} layers")
    return [float(density) for density in given]


def _attributes(store: Store, evolved: Evolved, metrics: Metrics) -> dict[str, Any]:
    """The store's attributes, what is counted in them counted anew."""
    counted = ("volume", "messages", "max_send", "imbalance")
    partition = {**store.provenance, **{n: getattr(metrics, n) for n in counted if n in store.provenance}}
    return {**store.manifest.attributes, "edges": evolved.edges_after, "partition": partition}


def _free_number(store: Store, part: int) -> int:
    """A window number above all of a part's, those of earlier generations included."""
    numbers = (int(p.name) for p in store.path.glob(f"parts/{part:04d}/*") if p.name.isdecimal())
    return 1 + max(numbers, default=-1)
