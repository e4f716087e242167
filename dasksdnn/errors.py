"""The error tree: whatever goes wrong for a user is a `DaskSDNNError` that names the thing and the remedy."""

from __future__ import annotations


class DaskSDNNError(Exception):
    """Base of every error that dasksdnn raises on purpose. Its text is one line: what is wrong, where, what to do.

    Examples
    --------
    >>> import dasksdnn as sdnn
    >>> try:
    ...     net = sdnn.radixnet(neurons=48, layers=2)
    ... except sdnn.DaskSDNNError as error:
    ...     print(error)
    neurons: 48 is not 16 times a power of two of at least 2; use 32, 64, 128, ...
    """


class InputError(DaskSDNNError, ValueError):
    """A network, dataset, file or argument given by the user is not usable."""


class OutputExistsError(DaskSDNNError, FileExistsError):
    """The output path exists, and the user did not ask to overwrite it."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "output exists"


class MemoryBudgetError(DaskSDNNError, MemoryError):
    """The memory budget cannot work.

    Attributes
    ----------
    smallest : int
        The smallest budget that would work, in bytes (0 where none is known).
    """

    def __init__(self, message: str, smallest: int = 0) -> None:
        super().__init__(message)
        self.smallest = smallest

    def __reduce__(self) -> tuple[type[MemoryBudgetError], tuple[str, int]]:
        # What workers of a cluster send errors by builds other errors with an __init__ in a way that MemoryError refuses.
        return MemoryBudgetError, (str(self), self.smallest)


class StoreError(DaskSDNNError):
    """A store cannot be opened, read or written."""


class CorruptStoreError(StoreError):
    """A store's content does not match its manifest."""


class PartitionerError(DaskSDNNError, RuntimeError):
    """A partitioning library failed, crashed or is not installed."""


class ClusterError(DaskSDNNError, RuntimeError):
    """Workers of a cluster are missing, or keep dying."""


class PeerLostError(ClusterError):
    """Another rank of a run has gone: it ended, or cannot be reached."""


class TrainingError(DaskSDNNError, ArithmeticError):
    """Training cannot go on: a loss is NaN or infinite."""
