"""How much memory a run will hold at its peak: a pure function of sizes and settings.

peak = reserved                     what the process holds already: the interpreter, imports, compiled kernels
     + panels                       (panels + scratch of each worker's group) x widest layer x tile
     + weights                      all slabs, or the one in use and the one that is read ahead
     + reading                      pieces of arrays being decoded, and the maps that renumber them
     + input                        the blocks of the dataset that are being cut into panels
     + output                       what the sink holds until it can write
     + slack                        stacks, the store's own buffers, fragmentation
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

#: Bytes for what cannot be counted one by one: thread stacks, Zarr's event loop, the allocator's own.
SLACK = 20 << 20
#: Bytes that decoding a piece takes while it is in flight: encoded, decoded, and Zarr's copy of 4 chunks of 8 bytes.
READING = 3 * 4 * (1 << 18) * 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a plan must know of a network in a store.

    Attributes
    ----------
    widths : tuple of int
        Neurons of the input and of each layer.
    itemsize : int
        Bytes of a value.
    layer_bytes : tuple of int
        Bytes of each layer in memory, ready for the kernels.
    layer_edges : tuple of int
        Stored weights of each layer.
    nparts : int
        Parts of the store: each is read apart.
    """

    widths: tuple[int, ...]
    itemsize: int
    layer_bytes: tuple[int, ...]
    layer_edges: tuple[int, ...]
    nparts: int = 1

    @property
    def weights(self) -> int:
        """Bytes of all layers in memory."""
        return sum(self.layer_bytes)

    @property
    def edges(self) -> int:
        """Stored weights in all."""
        return sum(self.layer_edges)


def largest_sizes(each: Sequence[Sizes]) -> Sizes:
    """Sizes that are no less than any of these, which are of shares of one network."""

    def most(of: Callable[[Sizes], Sequence[int]]) -> tuple[int, ...]:
        return tuple(max(numbers) for numbers in zip(*map(of, each), strict=True))

    return replace(
        each[0],
        widths=most(lambda s: s.widths),
        layer_bytes=most(lambda s: s.layer_bytes),
        layer_edges=most(lambda s: s.layer_edges),
        nparts=max(s.nparts for s in each),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One way to run: what is held at once.

    Attributes
    ----------
    tile : int
        Samples of a panel.
    panels : int
        Panels held at once, scratch panels apart: one for each that is computed, or that goes along with it.
    slabs : tuple of (first, last)
        Runs of layers that are loaded together.
    resident : bool
        All slabs stay in memory, once loaded.
    prefetch : bool
        The next slab is read while one is in use.
    threads : int
    rows : int
        Samples that are read from the dataset at once.
    team : int
        Threads that share a panel's rows: 1 where there are samples enough for all threads.
    group : int
        Panels that a worker takes through layers together: 1 where it has the network to itself.
    """

    tile: int
    panels: int
    slabs: tuple[tuple[int, int], ...]
    resident: bool
    prefetch: bool
    threads: int
    rows: int
    team: int = 1
    group: int = 1

    @property
    def workers(self) -> int:
        """Panels that are computed at once."""
        return max(1, self.threads // self.team)

    @property
    def batch(self) -> int:
        """Samples that are in flight together."""
        return self.tile * self.panels


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected bytes at the peak, by use."""

    reserved: int
    panels: int
    weights: int
    reading: int
    input: int
    output: int
    slack: int = SLACK

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def projected_mem(
    sizes: Sizes, settings: Settings, *, reserved: int, input_bytes: int, output_bytes: int
) -> Projection:
    """Project the peak of a run.

    Parameters
    ----------
    sizes, settings
        The network, and the way to run it.
    reserved : int
        Bytes that the process holds before the run.
    input_bytes, output_bytes : int
        Bytes that the dataset's reader and the sink hold at most.

    Returns
    -------
    Projection
        Bytes by use; `.total` is the projected peak.
    """
    panel = max(sizes.widths) * settings.tile * sizes.itemsize
    slabs = sorted((slab_bytes(sizes, slab) for slab in settings.slabs), reverse=True)
    weights = sum(slabs) if settings.resident else sum(slabs[: 2 if settings.prefetch else 1])
    return Projection(
        reserved,
        (settings.panels + settings.workers * settings.group) * panel,
        weights,
        READING + 16 * max(sum(sizes.widths[first : last + 1]) for first, last in settings.slabs),
        input_bytes,
        output_bytes,
    )


def slab_bytes(sizes: Sizes, slab: tuple[int, int]) -> int:
    """Bytes of a run of layers in memory."""
    return sum(sizes.layer_bytes[slab[0] : slab[1]])


def cut_slabs(sizes: Sizes, limit: int) -> tuple[tuple[int, int], ...]:
    """Cut the layers into the longest runs of at most `limit` bytes (a larger layer is a run of its own)."""
    return tuple(_cut(sizes.layer_bytes, limit))


def _cut(layer_bytes: tuple[int, ...], limit: int) -> Iterator[tuple[int, int]]:
    first, held = 0, 0
    for k, size in enumerate(layer_bytes):
        if k > first and held + size > limit:
            yield first, k
            first, held = k, 0
        held += size
    yield first, len(layer_bytes)
