"""What is known of a network before its layers are loaded: some formats say it in a header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dasksdnn.errors import InputError
from dasksdnn.events import Listener, Progress, ignore
from dasksdnn.network import Activation, Layer, Network
from dasksdnn.store.reader import Store, open_store

Source = Network | Store | str | Path


@dataclass(frozen=True)
class Outline:
    """A network to export: `layers()` loads one at a time."""

    net: Network
    store: Store | None
    listener: Listener

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each layer."""
        return list(zip(self.net.widths[1:], self.net.widths[:-1], strict=True))

    @property
    def activations(self) -> list[Activation]:
        """Of each layer: of a network that is no store's, by loading them all once."""
        return list(self.store.activations) if self.store else [activation for activation, _ in self._passed]

    @property
    def edges(self) -> list[int]:
        """Stored weights of each layer; as above."""
        if self.store:
            return [int(n) for n in self.store.block_nonzeros().sum(axis=1)]
        return [edges for _, edges in self._passed]

    @cached_property
    def _passed(self) -> list[tuple[Activation, int]]:
        return [(layer.activation, layer.edges) for layer in self.net]

    @property
    def names(self) -> list[str]:
        """Names of the layers where they and their activations are modules of a `torch.nn.Sequential`: "0", "2", ..."""
        taken = np.cumsum([0, *(1 + (a.name != "identity") for a in self.activations)])
        return [str(n) for n in taken[:-1]]

    def layers(self) -> Iterator[Layer]:
        """Load the layers, telling the listener of each that has been used."""
        for k, layer in enumerate(self.net):
            yield layer
            self.listener(Progress("export", k + 1, len(self.net), "layers"))


def outline(source: Any, listener: Listener = ignore) -> Outline:
    """Make the outline of a network, a store, or a store's path.

    Raises
    ------
    InputError, StoreError
    """
    if isinstance(source, str | Path):
        source = open_store(source)
    if isinstance(source, Store):
        return Outline(source.network, source, listener)
    if not isinstance(source, Network):
        raise InputError(f"{type(source).__name__} is no network: give a Network, a Store or a store's path")
    return Outline(source, None, listener)
