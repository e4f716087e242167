"""`partition(net, nparts)`: a first assignment layer by layer, refined over all layers at once, balanced and recounted."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn import markup
from dasksdnn.compiling import warm_up
from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, announce
from dasksdnn.network import Array, Network
from dasksdnn.partition import anneal
from dasksdnn.partition.metrics import Metrics, Recount, recount
from dasksdnn.partition.native import TIMEOUT
from dasksdnn.partition.refine import Goal, find_effort, refine_network
from dasksdnn.partition.relabel import input_owner
from dasksdnn.partition.start import Start, check_method, layer_seed
from dasksdnn.partition.steptime import BANDWIDTH, LATENCY

#: Seconds; the operating system's timers take no infinity.
LONGEST = 1e8


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Partition:
    """Who owns which neuron, and what it costs.

    Made by `partition`, by `Partition.from_owner` from the user's own arrays, or by `Partition.load` from a file.

    Attributes
    ----------
    nparts : int
    owner : tuple of int arrays
        L + 1 read-only arrays, int16 (int32 above 32,767 parts): `owner[k][i]` is the part of neuron i of layer k.
    method : str
        How it was made; "given" for the user's own arrays.
    epsilon, seed : float and int, or None
        What was asked for; None for the user's own arrays.
    metrics : Metrics
        The independent recount, whose `volume`, `messages`, `max_send` and `imbalance` are the partition's.
    seconds : float
        Seconds it took, when it was made.
    effort, objective : str or None
        How long "hypergraph" refined it, and what it made least; None for other methods.
    repeatable : bool
        Whether the same call gives the same again: not where a time limit was set, or a library failed.
    notes : tuple of str
        What went wrong and was got over, one line each: a library that crashed, and what stood in for it.
    reused : bool
        Whether it was made earlier, and taken from the cache or from a file.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> part = sdnn.partition(sdnn.radixnet(64, 2), 2, method="block")
    >>> part.volume, part.messages, part.imbalance, [owner.size for owner in part.owner]
    (128, 3, 1.0, [64, 64, 64])
    """

    nparts: int
    owner: tuple[Array, ...]
    method: str
    epsilon: float | None
    seed: int | None
    metrics: Metrics
    seconds: float
    effort: str | None = None
    objective: str | None = None
    repeatable: bool = True
    notes: tuple[str, ...] = ()
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

        Returns
        -------
        Partition

        Raises
        ------
        InputError
            If the arrays do not fit the network or name parts outside 0 .. nparts-1.

        Examples
        --------
        >>> import dasksdnn as sdnn, numpy as np
        >>> net = sdnn.radixnet(64, 2)
        >>> sdnn.Partition.from_owner(net, [np.arange(n) % 4 for n in net.widths]).nparts
        4
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

        Examples
        --------
        >>> import dasksdnn as sdnn, os, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> sdnn.partition(sdnn.radixnet(64, 2), 2, method="block").save(folder.name + "/two.npz")
        >>> os.listdir(folder.name)
        ['two.npz']
        >>> folder.cleanup()
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

        Examples
        --------
        >>> import dasksdnn as sdnn, numpy as np, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> net = sdnn.radixnet(64, 2)
        >>> np.save(folder.name + "/mine.npy", np.arange(3 * 64) % 2)
        >>> sdnn.Partition.load(folder.name + "/mine.npy", net).method
        'given'
        >>> folder.cleanup()
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
        if self.effort is not None:
            asked = f"{asked[:-1]}, effort {self.effort}, least {self.objective}{'' if self.repeatable else ', not repeatable'})"
        return (
            f"<dasksdnn.Partition {self.method!r}: {self.nparts} parts of {len(self.owner) - 1} layers{asked}, "
            f"{self.seconds:.1f} s{', reused' * self.reused}\n volume {self.volume:,} words/sample, {self.messages:,} messages, "
            f"max send {self.max_send:,}, imbalance {self.imbalance:.3f}{''.join(f'{chr(10)} note: {n}' for n in self.notes)}>"
        )

    def _repr_html_(self) -> str:
        widths = [part.size for part in self.owner]
        held = {k: np.bincount(self.owner[k], minlength=self.nparts) for k in markup.drawn_layers(len(widths))}
        m = self.metrics
        rows = {
            "method": self.method + "".join(f", {how}" for how in (self.effort, self.objective) if how),
            "parts": f"{self.nparts:,}",
            "volume": f"{m.volume:,} words a sample",
            "messages": f"{m.messages:,} a batch",
            "largest send": f"{m.max_send:,} words a sample",
            "imbalance": f"{m.imbalance:.4f}",
            "seconds": f"{self.seconds:.1f}{', reused' * self.reused}",
            **{f"note {i}": note for i, note in enumerate(self.notes, 1)},
        }
        drawn = markup.aside(
            markup.facts(rows),
            markup.chain(widths, held),
            markup.matrix(m.send, "words, from row to column"),
            markup.stack(markup.named(m.nonzeros.tolist(), "part"), "weights by part"),
        )
        return markup.card("dasksdnn.Partition", drawn)


#: Words that a message may cost at most, so that sums with words stay exact enough.
MOST_WORDS = 1e12
#: What can be made least.
OBJECTIVES = ("volume", "time")


def partition(
    net: Network,
    nparts: int,
    *,
    method: str = "hypergraph",
    effort: str = "default",
    epsilon: float = 0.03,
    seed: int = 0,
    objective: str = "volume",
    latency: float = LATENCY,
    bandwidth: float = BANDWIDTH,
    batch: int = 64,
    training: bool = False,
    time_limit: float | None = None,
    listener: Listener = announce,
    timeout: float = TIMEOUT,
    cache: bool = True,
) -> Partition:
    """Assign the rows of every layer to parts, so that little is sent and all parts hold about as many nonzeros.

    First layer after layer, with the owners of the layer before fixed (Demirci and Ferhatosmanoglu, arXiv 2104.11805,
    section 4); then all layers at once (see refine.py). The network is streamed: what is in memory at once is a window
    of layers of about 1 GiB, or one layer.

    Parameters
    ----------
    net : Network
        What to partition.
    nparts : int
        Number of parts, at most the rows of the widest layer. Layers with fewer rows leave parts empty.
    method : str
        "hypergraph" (the default: the better of "mtkahypar" and "metis", layer by layer, refined), "mtkahypar", "kahypar"
        (GPLv3), "metis", "block" (consecutive rows) or "random". Only the first is refined.
    effort : str
        How long "hypergraph" refines: "none", "fast" (from METIS alone, where all others start from both; seconds), "default" (a minute or two) or
        "best" (ten times that). Counted in steps, so that it repeats.
    epsilon : float
        No part holds more than (1 + epsilon) times the average nonzeros of a layer, or what packing whole rows, the
        heaviest first, needs.
    seed : int
        The same seed gives the same partition. At least 0.
    objective : str
        What "hypergraph" makes least: "volume", words sent; or "time" of the exchanges, half by all parts' sends and half by
        the busiest part's, layer by layer, a message counted as latency * bandwidth bytes; the first layer, whose inputs
        every part reads from the dataset, left out.
    latency, bandwidth : float
        Of the network, for "time": seconds a message, and bytes a second that a part can send.
    batch : int
        Samples that share a message, for "time".
    training : bool
        For "volume", words of layers 2 to L count twice, as they are sent back too ("time" counts these layers only).
    time_limit : float, optional
        Seconds after which refinement stops; the result is then not repeatable.
    listener : callable
        Told of progress: `Progress("partition", k, L, "layers")`, then `Progress("refine", i, 100, "%")`.
    timeout : float
        Seconds that a partitioning library may take for one layer.
    cache : bool
        Take the partition from the cache folder (`dasksdnn.cache`) if it was made before, and keep it there if it took
        more than a second. "block" and "random" are never kept: they take no longer than the look-up, two passes. Nor is
        what a time limit cut short.

    Returns
    -------
    Partition

    Raises
    ------
    InputError
        For arguments that cannot work.
    PartitionerError
        If a library is missing, fails, crashes or takes too long. This process is safe: libraries run in another. Where
        "hypergraph" can do without, it does, and `Partition.notes` says so.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> net = sdnn.radixnet(neurons=64, layers=4)
    >>> part = sdnn.partition(net, nparts=2, effort="fast")
    >>> part.nparts, part.imbalance <= 1.03
    (2, True)
    >>> part.volume < sdnn.partition(net, nparts=2, method="random").volume
    True
    """
    started = time.monotonic()
    nparts, seed, batch = _whole(nparts, "nparts", 1), _whole(seed, "seed", 0), _whole(batch, "batch", 1)
    level = find_effort(effort)
    check_method(method)
    if objective not in OBJECTIVES:
        raise InputError(f"unknown objective {objective!r}: use one of {', '.join(OBJECTIVES)}")
    if nparts > max(net.widths[1:]):
        raise InputError(
            f"nparts {nparts} is more than the {max(net.widths[1:])} rows of the widest layer: use fewer parts"
        )
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"epsilon {epsilon} is not usable: give a number from 0 up, such as 0.03")
    if not (math.isfinite(latency) and latency >= 0):
        raise InputError(f"latency {latency} is not usable: give seconds from 0 up, such as 1.5e-6")
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"bandwidth {bandwidth} is not usable: give bytes a second, above 0, such as 12.5e9")
    message = latency * bandwidth / (net.dtype.itemsize * batch)
    if objective == "time" and message > MOST_WORDS:
        raise InputError(
            f"latency {latency:g} and bandwidth {bandwidth:g} make a message cost {message:.3g} words: lower one"
        )
    for name, limit in (("timeout", timeout), ("time_limit", time_limit)):
        if limit is not None and not 0 < limit <= LONGEST:
            raise InputError(f"{name} {limit} is not usable: give a number of seconds, above 0 and at most {LONGEST:g}")
    refined = method == "hypergraph"
    if cache and time_limit is None and nparts > 1 and method not in ("block", "random"):
        from dasksdnn.partition.caching import cached

        key: dict[str, Any] = {"nparts": nparts, "method": method, "epsilon": float(epsilon), "seed": seed}
        if refined:
            key |= {"effort": effort, "objective": objective, "training": bool(training)}
            key |= (
                {"latency": float(latency), "bandwidth": float(bandwidth), "batch": batch}
                if objective == "time"
                else {}
            )
        decides = {**key, "itemsize": net.dtype.itemsize if objective == "time" else None}
        return cached(net, decides, lambda: partition(net, **key, listener=listener, timeout=timeout, cache=False))
    slack = min(float(epsilon), float(nparts))  # beyond, all rows may be in one part
    owner: list[Array] = []
    edges: list[int] = []
    count = Recount(nparts)
    before: list[Array] = []

    def add(weights: Any, rows: Array) -> None:
        if not before:
            before.append(input_owner(weights, rows, nparts))
        count.add(weights, before[-1], rows)
        before.append(rows)

    refining = refined and nparts > 1 and level.runs > 0
    with Start(net, method, nparts, slack, seed, timeout, effort != "fast") as start:
        for k, (weights, rows) in enumerate(start.layers()):
            owner.append(rows)
            edges.append(weights.nnz)
            if not refining:
                add(weights, rows)
            listener(Progress("partition", k + 1, len(net), "layers"))
    if refining:
        goal = Goal(message if objective == "time" else None, None if time_limit is None else started + time_limit)
        warm_up(anneal.warm_up_calls(), listener)
        seeds = [layer_seed(seed, k) for k in range(len(net))]
        refine_network(
            net, owner, edges, nparts, slack, seeds, level, goal, training, add,
            lambda share: listener(Progress("refine", int(100 * share), 100, "%")),
        )  # fmt: skip
    arrays = _compact(before, nparts)
    how = (effort, objective, time_limit is None and not start.notes, tuple(start.notes)) if refined else ()
    return Partition(nparts, arrays, method, float(epsilon), seed, count.result(), time.monotonic() - started, *how)


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
