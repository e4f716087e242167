"""How training went as a picture: loss, and accuracy where there are classes, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dasksdnn.training.history import History


def draw(history: History) -> Any:
    """Draw a history as a matplotlib figure."""
    from matplotlib.figure import Figure

    epochs = history.epochs
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    classes = any(e.accuracy is not None for e in epochs)
    panels = figure.subplots(1, 1 + classes, squeeze=False)[0]
    numbers = [e.epoch for e in epochs]
    _panel(panels[0], "loss", numbers, [e.loss for e in epochs], [e.validation_loss for e in epochs])
    if classes:
        _panel(panels[1], "accuracy", numbers, [e.accuracy for e in epochs], [e.validation_accuracy for e in epochs])
    return figure


def _panel(
    axis: Any, name: str, epochs: Sequence[int], trained: Sequence[float | None], looked_at: Sequence[float | None]
) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) <= 40 else ""
    axis.plot(epochs, trained, color="tab:blue", marker=marker, ms=3, label="training")
    if any(value is not None for value in looked_at):
        axis.plot(epochs, looked_at, color="tab:red", marker=marker, ms=3, label="validation")
    if name == "loss":
        axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel(name)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
