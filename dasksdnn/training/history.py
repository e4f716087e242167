"""How training went, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from dasksdnn import markup


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    steps, samples : int
    loss, accuracy : float
        Means over the epoch, as the batches were trained; accuracy is None where there are no classes.
    validation_loss, validation_accuracy : float or None
        Behind the epoch.
    learning_rate : float
        Of the last step.
    seconds : float
        Of training, validation and checkpoints apart.
    bytes_read, bytes_written : int
        From and to scratch.
    volume : int
        Words that parts sent to each other.
    edges : int
        Stored weights.
    """

    epoch: int
    steps: int
    samples: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    bytes_read: int
    bytes_written: int
    volume: int
    edges: int


#: Epochs of a table in a notebook: the first half of them, and the last.
_SHOWN = 20
_COLUMNS = ("epoch", "loss", "accuracy", "validation loss", "validation accuracy", "rate", "seconds", "edges")


@dataclass(frozen=True, slots=True)
class History:
    """How training went; its text is a table.

    Attributes
    ----------
    epochs : tuple of Epoch
        In their order.
    plan : dict
        How it ran: see `plan.training.TrainingPlan.as_dict`, and `peak_rss_bytes`, the most memory that a process of it has
        held. Of the last run, where several went on from each other.
    changes : tuple of dict
        Of the pattern: the epochs behind which, and what `training.rewriting.Evolved` tells.
    """

    epochs: tuple[Epoch, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)
    changes: tuple[dict[str, Any], ...] = ()

    @property
    def best(self) -> Epoch | None:
        """The epoch of the lowest loss: of validation, where there is one."""
        return min(
            self.epochs,
            key=lambda e: e.loss if e.validation_loss is None else e.validation_loss,
            default=None,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "plan": self.plan, "changes": list(self.changes)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> History:
        """Read what `as_dict` gave."""
        epochs = tuple(Epoch(**epoch) for epoch in record["epochs"])
        return cls(epochs, dict(record.get("plan", {})), tuple(record.get("changes", ())))

    def rows(self) -> list[tuple[str, ...]]:
        """The table's header, then a row an epoch."""

        def shown(value: float | None, digits: int) -> str:
            return "-" if value is None else f"{value:.{digits}f}"

        return [
            _COLUMNS,
            *(
                (
                    str(e.epoch),
                    shown(e.loss, 4),
                    shown(e.accuracy, 4),
                    shown(e.validation_loss, 4),
                    shown(e.validation_accuracy, 4),
                    f"{e.learning_rate:.3g}",
                    f"{e.seconds:.2f}",
                    f"{e.edges:,}",
                )
                for e in self.epochs
            ),
        ]

    def __repr__(self) -> str:
        table = self.rows()
        wide = [max(len(row[i]) for row in table) for i in range(len(_COLUMNS))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, wide, strict=True)) for row in table]
        return "\n".join([f"<dasksdnn.History: {len(self.epochs)} epochs>", *lines])

    def _repr_html_(self) -> str:
        header, *rows = self.rows()
        if len(rows) > _SHOWN:
            rows = [*rows[: _SHOWN // 2], tuple("..." for _ in header), *rows[-_SHOWN // 2 :]]
        losses: dict[str, list[float | None]] = {
            "training": [e.loss for e in self.epochs],
            "validation": [e.validation_loss for e in self.epochs],
        }
        table = markup.grid(header, rows)
        return markup.card(
            f"dasksdnn.History: {len(self.epochs)} epochs", markup.aside(table, markup.curves(losses, "loss by epoch"))
        )
