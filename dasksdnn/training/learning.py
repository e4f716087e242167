"""What a run of training tells whoever watches it of how well it learns, a few times a second."""

from __future__ import annotations

from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Any

from dasksdnn.engines.cluster.telemetry import INTERVAL, tell

if TYPE_CHECKING:
    from dasksdnn.training.run import Run


class Learning:
    """Tells the loss and accuracy of the batches since it last told, and of epochs that have ended.

    Parameters
    ----------
    worker : distributed.Worker
        Of the rank that tells.
    watched : str
        What whoever watches knows the run by.
    """

    def __init__(self, worker: Any, watched: str) -> None:
        self._worker, self._watched = worker, watched
        self._at = 0.0
        self._before: tuple[int, float, int, int] = (-1, 0.0, 0, 0)  # epoch, and sums at that time
        self._ended = 0

    def tell(self, run: Run) -> None:
        """Tell, if it is time; called behind each step."""
        now, sums = monotonic(), run.sums
        if now - self._at < INTERVAL:
            return
        epoch, loss, correct, samples = self._before if self._before[0] == run.epoch else (run.epoch, 0.0, 0, 0)
        some = sums.samples - samples
        if not some:
            return
        batches = -(-run.train.count // run.options.batch_size)
        facts: dict[str, Any] = {
            "epoch": run.epoch + run.position / batches,
            "done": run.epoch * run.train.count + sums.samples,
            "loss": (sums.loss - loss) / some,
            "accuracy": None if run.options.loss == "mse" else (sums.correct - correct) / some,
            "epochs": [asdict(ended) for ended in run.history[self._ended :]],
        }
        tell(self._worker, "learned", self._watched, **facts)
        self._at, self._ended = now, len(run.history)
        self._before = (epoch, sums.loss, sums.correct, sums.samples)
