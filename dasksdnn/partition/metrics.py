"""An independent recount of a partition: what is sent, by whom, and how evenly the rows are spread.

A partitioner's own numbers are not evidence, so this module shares no code with any of them, and works layer by layer
so that a network larger than memory is recounted in one stream.

    part p touches column j of W_k   <=>   p owns x_{k-1}[j], or a row of W_k with a nonzero in column j
    lambda_j = parts that touch j;   volume of layer k = sum over j of (lambda_j - 1);   the owner sends to the others
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.network import Array, Network
from dasksdnn.partition.digests import PatternDigest


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """What a partition costs, per sample and in one direction (forward), over all layers, the first included."""

    nparts: int
    #: Words sent.
    volume: int
    #: Non-empty ordered pairs (sender, receiver), summed over the layers.
    messages: int
    #: Words sent by the part that sends most, over all layers.
    max_send: int
    #: Messages sent by the part that sends most of them, over all layers.
    max_messages: int
    #: The largest of `imbalance_per_layer`.
    imbalance: float
    volume_per_layer: Array
    messages_per_layer: Array
    #: Words sent by the part that sends most before that layer.
    max_send_per_layer: Array
    #: Messages sent by the part that sends most of them before that layer.
    max_messages_per_layer: Array
    #: Nonzeros of the part that holds most of that layer.
    max_nonzeros_per_layer: Array
    #: Maximum over average nonzeros per part; 1.0 for a layer with no nonzeros.
    imbalance_per_layer: Array
    #: A lower bound on `imbalance_per_layer` for any partition into whole rows.
    best_imbalance_per_layer: Array
    #: Words [sender, receiver] over all layers, int64 (nparts, nparts).
    send: Array
    #: Nonzeros of each part over all layers, int64 (nparts,).
    nonzeros: Array
    #: `pattern_digest` of the network that was counted.
    pattern: str

    def as_dict(self) -> dict[str, Any]:
        """The same in plain lists and numbers, ready for JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


class _Layer(NamedTuple):
    """What is counted of one layer."""

    volume: int
    messages: int
    max_send: int
    max_messages: int
    max_nonzeros: int
    imbalance: float
    best_imbalance: float


class Recount:
    """Counts layer after layer; memory is O(neurons + nonzeros of one layer + nparts^2).

    Parameters
    ----------
    nparts : int
        Number of parts.

    Examples
    --------
    >>> import scipy.sparse
    >>> count = Recount(2)
    >>> count.add(scipy.sparse.csr_array(np.array([[1, 1], [0, 1]])), np.array([0, 1]), np.array([0, 1]))
    >>> count.result().volume
    1
    """

    def __init__(self, nparts: int) -> None:
        self._nparts = nparts
        self._send = np.zeros((nparts, nparts), np.int64)
        self._messages_sent = np.zeros(nparts, np.int64)
        self._nonzeros = np.zeros(nparts, np.int64)
        self._layers: list[_Layer] = []
        self._pattern = PatternDigest()

    def add(self, weights: Any, owner_in: Array, owner_out: Array) -> None:
        """Count one layer.

        Parameters
        ----------
        weights : csr_array of shape (outputs, inputs)
            Stored zeros count as nonzeros.
        owner_in : int array of shape (inputs,)
            The part of each input neuron.
        owner_out : int array of shape (outputs,)
            The part of each row.

        Raises
        ------
        InputError
            If a length does not match or a part is outside 0 .. nparts-1.
        """
        k = len(self._layers) + 1
        for side, owner, length in (("input", owner_in, weights.shape[1]), ("output", owner_out, weights.shape[0])):
            if owner.shape != (length,) or owner.dtype.kind not in "iu":
                raise InputError(
                    f"layer {k}: {side} owners have shape {owner.shape} and dtype {owner.dtype}: give int ({length},)"
                )
            if owner.size and not 0 <= int(owner.min()) <= int(owner.max()) < self._nparts:
                raise InputError(f"layer {k}: {side} owners must be parts 0 to {self._nparts - 1}")
        self._pattern.add(weights)
        owner_in, owner_out = owner_in.astype(np.int64), owner_out.astype(np.int64)
        send = np.zeros_like(self._send)
        for part, columns in _touched(weights, owner_out, self._nparts):
            send[:, part] = np.bincount(owner_in[columns], minlength=self._nparts)
        np.fill_diagonal(send, 0)  # what a part already owns is not sent
        messages = np.count_nonzero(send, axis=1)
        self._send += send
        self._messages_sent += messages
        rows = np.diff(weights.indptr)
        loads = np.bincount(owner_out, weights=rows, minlength=self._nparts).astype(np.int64)
        self._nonzeros += loads
        load = int(loads.max())
        average = weights.nnz / self._nparts
        balance = (load / average, least_load(rows, self._nparts) / average) if weights.nnz else (1.0, 1.0)
        self._layers.append(
            _Layer(
                int(send.sum()), int(messages.sum()), int(send.sum(axis=1).max()), int(messages.max()), load, *balance
            )
        )

    def result(self) -> Metrics:
        """The totals of the layers added so far."""
        volume, messages = self._each("volume"), self._each("messages")
        imbalance = self._each("imbalance", np.float64)
        return Metrics(
            nparts=self._nparts,
            volume=int(volume.sum()),
            messages=int(messages.sum()),
            max_send=int(self._send.sum(axis=1).max()),
            max_messages=int(self._messages_sent.max()),
            imbalance=float(imbalance.max(initial=1.0)),
            volume_per_layer=volume,
            messages_per_layer=messages,
            max_send_per_layer=self._each("max_send"),
            max_messages_per_layer=self._each("max_messages"),
            max_nonzeros_per_layer=self._each("max_nonzeros"),
            imbalance_per_layer=imbalance,
            best_imbalance_per_layer=self._each("best_imbalance", np.float64),
            send=self._send.copy(),
            nonzeros=self._nonzeros.copy(),
            pattern=self._pattern.hexdigest(),
        )

    def _each(self, name: str, dtype: type = np.int64) -> Array:
        return np.array([getattr(layer, name) for layer in self._layers], dtype)


def recount(net: Network, owner: Sequence[Array], nparts: int) -> Metrics:
    """Recount a whole network, one layer in memory at a time.

    Parameters
    ----------
    net : Network
        L layers.
    owner : sequence of L + 1 int arrays
        `owner[k][i]` is the part of neuron i of layer k; `owner[0]` is that of the inputs.
    nparts : int
        Number of parts.

    Returns
    -------
    Metrics

    Raises
    ------
    InputError
        If an owner array does not fit the network.
    """
    if len(owner) != len(net) + 1:
        raise InputError(f"{len(owner)} owner arrays for {len(net)} layers: give {len(net) + 1}, the inputs' first")
    count = Recount(nparts)
    for k, layer in enumerate(net):
        count.add(layer.weights, owner[k], owner[k + 1])
    return count.result()


def least_load(row_nonzeros: Array, nparts: int) -> int:
    """A lower bound on the nonzeros of the heaviest part, whatever the partition into whole rows.

    The larger of the average, rounded up, and of what follows from the pigeonhole principle: some part holds at least
    m + 1 of the m * nparts + 1 heaviest rows, so at least the m + 1 lightest of these (m = 0: the heaviest row).
    """
    heavy = np.sort(row_nonzeros.astype(np.int64))[::-1]
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(heavy)])
    m = np.arange(-(-heavy.size // nparts))
    crowded = total[m * nparts + 1] - total[m * nparts - m]
    return max(int(crowded.max(initial=0)), -(-int(total[-1]) // nparts))


def _touched(weights: Any, owner_out: Array, nparts: int) -> Iterator[tuple[int, Array]]:
    """For each part in turn, the distinct columns in which its rows have nonzeros."""
    order = np.argsort(owner_out, kind="stable")
    ends = np.cumsum(np.bincount(owner_out, minlength=nparts))
    seen = np.full(weights.shape[1], -1, np.int64)
    for part, rows in enumerate(np.split(order, ends[:-1])):
        seen[weights[rows].indices] = part
        yield part, np.flatnonzero(seen == part)
