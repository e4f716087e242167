"""`partition(net, nparts)`: one pass over the layers, each loaded once, partitioned, balanced and recounted."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import InputError, PartitionerError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.network import Array, Network
from dasksdnn.partition.metrics import Metrics, Recount, recount
from dasksdnn.partition.native import TIMEOUT, Helper
from dasksdnn.partition.partitioners import Method, Task, balanced, find_method
from dasksdnn.partition.relabel import input_owner, spread

#: Seconds; the operating system's timers take no infinity.
LONGEST = 1e8


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Partition:
    """Who owns which neuron, and what it costs.

    Made by `partition`, by `Partition.from_owner` from the user's own arrays, or by `Partition.load` from a file.
    """

    nparts: int
    #: L + 1 read-only arrays, int16 (int32 above 32,767 parts): `owner[k][i]` is the part of neuron i of layer k.
    owner: tuple[Array, ...]
    #: How it was made; "given" for the user's own arrays.
    method: str
    #: What was asked for; None for the user's own arrays.
    epsilon: float | None
    seed: int | None
    #: The independent recount.
    metrics: Metrics
    #: Seconds it took, when it was made.
    seconds: float
    #: Whether it was made earlier, and taken from the cache or from a file.
    reused: bool = False

    @classmethod
    def from_owner(cls, net: Network, owner: Sequence[Array], nparts: int | None = None) -> Partition:
        """Check and recount a partition that the user brings.

        Parameters
        ----------
        net : Network
            L layers.
        owner : sequence of L + 1 int arrays
            `owner[k][i]` is the part of neuron i of layer k; `owner[0]` is that of the inputs.
        nparts : int or None
            Number of parts; by default the largest part named, plus one.

        Raises
        ------
        InputError
            If the arrays do not fit the network or name parts outside 0 .. nparts-1.
        """
        started = time.perf_counter()
        arrays = [np.asarray(part) for part in owner]
        for k, part in enumerate(arrays):
            if part.dtype.kind not in "iu" or part.ndim != 1 or not part.size:
                raise InputError(
                    f"owner[{k}] has dtype {part.dtype} and shape {part.shape}: give a list of part numbers"
                )
        parts = (
            1 + max((int(part.max()) for part in arrays), default=0) if nparts is None else _whole(nparts, "nparts", 1)
        )
        if parts > max(net.widths):
            raise InputError(f"{parts} parts for a network whose widest layer has {max(net.widths)} neurons: use fewer")
        metrics = recount(net, arrays, parts)
        return cls(parts, _compact(arrays, parts), "given", None, None, metrics, time.perf_counter() - started)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the owners, and how they were made, to an `.npz` file without pickles.

        Parameters
        ----------
        path : str or Path
            The file; it appears whole or not at all.
        overwrite : bool
            Replace what stands there.

        Raises
        ------
        OutputExistsError, InputError, StoreError
        """
        from dasksdnn.partition.files import save

        save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, net: Network) -> Partition:
        """Read a partition from a file, and recount it: nothing that the file says of its cost is believed.

        Parameters
        ----------
        path : str or Path
            What `save` wrote; or, from tools of your own, a `.npy` of one int array (the part of each neuron, layer
            after layer, inputs first), or a `.npz` of one such array or of L + 1 (`owner_0` of the inputs, `owner_1`,
            ..., or `arr_0`, `arr_1`, ...), whose method is then "given".
        net : Network
            L layers; streamed once.

        Returns
        -------
        Partition

        Raises
        ------
        InputError
            The file is none of these, is damaged, or does not fit the network.
        """
        from dasksdnn.partition.files import load

        return load(path, net)

    @property
    def volume(self) -> int:
        """Words sent per sample, over all layers, the first included."""
        return self.metrics.volume

    @property
    def messages(self) -> int:
        """Non-empty ordered pairs of parts, summed over the layers."""
        return self.metrics.messages

    @property
    def max_send(self) -> int:
        """Words sent per sample by the part that sends most."""
        return self.metrics.max_send

    @property
    def imbalance(self) -> float:
        """Maximum over average nonzeros of a part, in the worst layer."""
        return self.metrics.imbalance

    def __repr__(self) -> str:
        asked = "" if self.epsilon is None else f" (epsilon {self.epsilon:g}, seed {self.seed})"
        return (
            f"<dasksdnn.Partition {self.method!r}: {self.nparts} parts of {len(self.owner) - 1} layers{asked}, "
            f"{self.seconds:.1f} s{', reused' * self.reused}\n volume {self.volume:,} words/sample, {self.messages:,} messages, "
            f"max send {self.max_send:,}, imbalance {self.imbalance:.3f}>"
        )


def partition(
    net: Network,
    nparts: int,
    *,
    method: str = "hypergraph",
    epsilon: float = 0.03,
    seed: int = 0,
    listener: Listener = ignore,
    timeout: float = TIMEOUT,
    cache: bool = True,
) -> Partition:
    """Assign the rows of every layer to parts, so that little is sent and all parts hold about as many nonzeros.

    Layer after layer, with the owners of the layer before fixed (Demirci and Ferhatosmanoglu, arXiv 2104.11805,
    section 4). The network is streamed: one layer is in memory at a time.

    Parameters
    ----------
    net : Network
        What to partition.
    nparts : int
        Number of parts, at most the rows of the widest layer. Layers with fewer rows leave parts empty.
    method : str
        "hypergraph" (the default: the better of the next and "metis", layer by layer), "mtkahypar", "kahypar"
        (GPLv3), "metis", "block" (consecutive rows) or "random".
    epsilon : float
        No part holds more than (1 + epsilon) times the average nonzeros of a layer, wherever whole rows permit.
    seed : int
        The same seed gives the same partition. At least 0.
    listener : callable
        Told of each finished layer: `Progress("partition", k, L, "layers")`.
    timeout : float
        Seconds that a partitioning library may take for one layer.
    cache : bool
        Take the partition from the cache folder (`dasksdnn.cache`) if it was made before, and keep it there if it took
        more than a second. "block" and "random" are never kept: they take no longer than the look-up, two passes.

    Returns
    -------
    Partition

    Raises
    ------
    InputError
        For arguments that cannot work.
    PartitionerError
        If a library is missing, fails, crashes or takes too long. This process is safe: libraries run in another.
    """
    started = time.perf_counter()
    nparts, seed = _whole(nparts, "nparts", 1), _whole(seed, "seed", 0)
    function = find_method(method)
    if nparts > max(net.widths[1:]):
        raise InputError(
            f"nparts {nparts} is more than the {max(net.widths[1:])} rows of the widest layer: use fewer parts"
        )
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon {epsilon} is not usable: give a number from 0 up, such as 0.03")
    if not 0 < timeout <= LONGEST:
        raise InputError(f"timeout {timeout} is not usable: give a number of seconds, above 0 and at most {LONGEST:g}")
    if cache and nparts > 1 and method not in ("block", "random"):
        from dasksdnn.partition.caching import cached

        key: dict[str, Any] = {"nparts": nparts, "method": method, "epsilon": float(epsilon), "seed": seed}
        return cached(net, key, lambda: partition(net, **key, listener=listener, timeout=timeout, cache=False))
    owner: list[Array] = []
    count = Recount(nparts)
    with Helper(timeout) as helper:
        for k, layer in enumerate(net):
            weights, before = layer.weights, owner[-1] if owner else None
            rows = _assign(function, Task(weights, before, nparts, epsilon, _layer_seed(seed, k), helper), k)
            if before is None:
                owner.append(input_owner(weights, rows, nparts))
            owner.append(rows)
            count.add(weights, owner[-2], rows)
            listener(Progress("partition", k + 1, len(net), "layers"))
    seconds = time.perf_counter() - started
    return Partition(nparts, _compact(owner, nparts), method, epsilon, seed, count.result(), seconds)


def _assign(method: Method, task: Task, k: int) -> Array:
    """The part of each row of layer k (0-based)."""
    if task.nparts == 1:
        return np.zeros(task.weights.shape[0], np.int64)
    if not task.weights.nnz:
        return spread(np.full(task.weights.shape[0], -1), task.nparts)
    try:
        return spread(balanced(task, method(task)), task.nparts)
    except PartitionerError as error:
        raise PartitionerError(f"layer {k + 1}: {error}") from error


def _layer_seed(seed: int, k: int) -> int:
    """Independent from layer to layer, and a positive int32, which is all that some libraries take."""
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0] >> 1)


def _compact(owner: Sequence[Array], nparts: int) -> tuple[Array, ...]:
    dtype = np.int16 if nparts <= np.iinfo(np.int16).max else np.int32
    arrays = tuple(part.astype(dtype) for part in owner)
    for part in arrays:
        part.flags.writeable = False
    return arrays


def _whole(value: object, name: str, least: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} {value!r} is not a whole number") from None
    if number < least:
        raise InputError(f"{name} {number} is too small: give at least {least}")
    return number
