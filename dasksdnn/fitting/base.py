"""What both estimators share: their words, and how the network comes about, is trained, and is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dasksdnn.errors import InputError
from dasksdnn.events import Listener, announce
from dasksdnn.fitting.samples import check_samples, hold_out
from dasksdnn.fitting.trained import Trained, outputs
from dasksdnn.network import Activation, Array, Network
from dasksdnn.partition.partition import partition
from dasksdnn.sources.checks import real_number, whole_number
from dasksdnn.sources.datasets import as_dataset
from dasksdnn.store.reader import Store, open_store
from dasksdnn.training.history import History
from dasksdnn.training.initial import random_sparse
from dasksdnn.training.loop import train
from dasksdnn.training.options import Options

PARAMETERS = """
    Neither the weights and the optimizer's state nor samples that are read by block (dask, zarr, memory-mapped arrays, any
    `Dataset`) need to fit in memory.

    Parameters
    ----------
    network : Network, Store or path, optional
        What to train, instead of a network that is drawn. A `Network` is copied to a store at each `fit`. A store is
        trained in place, from the weights that it has, so it is not for cross-validation: there, give `store.network`.
    hidden_layer_sizes : int or sequence of int
        Neurons of each hidden layer of a network that is drawn. Its output layer is dense.
    density : float or sequence of float
        Share of its inputs that each hidden neuron reads, of all hidden layers or of each.
    activation : str or Activation
        Of hidden layers: "relu", "tanh", "sigmoid", "clip:6", "leaky_relu:0.01" or "identity".
    optimizer : {"adam", "adamw", "sgd", "momentum"}
    learning_rate, momentum, weight_decay : float
        As PyTorch defines them; momentum is of "momentum".
    schedule : {"constant", "step", "cosine"}
        Of the learning rate, in `fit`: see `train`.
    warmup : int
        Steps of `fit` in which the learning rate rises.
    dropout : float
        Share of hidden outputs that a step drops.
    clip_norm : float, optional
        The most that the norm of a step's gradient may be.
    epochs, batch_size : int
    patience : int, optional
        `fit` ends after so many epochs without a lower loss (of validation, where there is one), and returns to the best.
    validation_fraction : float
        Share of the samples that `fit` sets aside to look at after each epoch: drawn, or the last ones of samples that are
        read by block.
    nparts : int
        Parts of a network that is drawn, or given as a `Network`.
    partition_method : str
        See `partition`.
    engine : {"local"}
    memory : str or int, optional
        Budget of the process at its peak, as for `train` and `infer`.
    threads : int, optional
        By default all processors that the process may use.
    random_state : int, RandomState or None
        Of weights, order of samples, dropout, partition and validation: the same number gives the same bits.
    dtype : {"float32", "float64"}
        Of a network that is drawn.
    path : path, optional
        Where the store of a network that is drawn, or given as a `Network`, is made; by default in a temporary folder that
        lives as long as the estimator. Nothing is replaced there but what the same estimator has made.
    listener : callable, optional
        Told of progress: see `dasksdnn.events`.
"""

ATTRIBUTES = """store_ : Store
        The trained network. Pickles hold its layers instead; a copy writes a temporary store when it needs one.
    network_ : Network
        That of the store.
    history_ : History
        Epoch by epoch.
    loss_curve_ : list of float
        Loss of each epoch.
    n_iter_ : int
        Epochs.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the samples have names of features.
"""

#: Engines that an estimator can train with: among MPI's ranks, each would have one of its own.
_ENGINES = ("local", "dask")


class SparseDNN(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: how the network comes about, is trained, and is run."""

    _loss: ClassVar[str]

    def __init__(
        self,
        network: Network | Store | str | os.PathLike[str] | None = None,
        *,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        density: float | Sequence[float] = 0.1,
        activation: str | Activation = "relu",
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup: int = 0,
        dropout: float = 0.0,
        clip_norm: float | None = None,
        epochs: int = 20,
        batch_size: int = 64,
        patience: int | None = None,
        validation_fraction: float = 0.0,
        nparts: int = 1,
        partition_method: str = "hypergraph",
        engine: str = "local",
        memory: str | int | None = None,
        threads: int | None = None,
        random_state: Any = None,
        dtype: npt.DTypeLike = "float32",
        path: str | os.PathLike[str] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.network = network
        self.hidden_layer_sizes = hidden_layer_sizes
        self.density = density
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.dropout = dropout
        self.clip_norm = clip_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.nparts = nparts
        self.partition_method = partition_method
        self.engine = engine
        self.memory = memory
        self.threads = threads
        self.random_state = random_state
        self.dtype = dtype
        self.path = path
        self.listener = listener

    # -- what scikit-learn asks

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trained")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # A copy has not made what stands at `path`, so it must not replace it.
        return {name: value for name, value in super().__getstate__().items() if name != "_wrote"}

    # -- results

    @property
    def store_(self) -> Store:
        """The store of the trained network."""
        check_is_fitted(self)
        store: Store = self._trained.store
        return store

    @property
    def network_(self) -> Network:
        """The trained network."""
        return self.store_.network

    def _outputs(self, X: Any, finish: Callable[[Array], Array]) -> Any:
        check_is_fitted(self)
        x = check_samples(self, X)
        return outputs(
            self._trained, x, finish, memory=self.memory, threads=self.threads, listener=self.listener or announce
        )

    # -- training

    def _fit(self, x: Any, targets: Array, width: int) -> None:
        """Begin anew, and run all epochs."""
        seed = self._draw_seed()
        options = self._options(seed)
        stratify = self._loss == "softmax"
        kept, of_kept, validation = hold_out(x, targets, self.validation_fraction, seed, stratify=stratify)
        trained = self._begin(width, seed)
        history = self._train(trained, kept, of_kept, options, validation=validation)
        self._take(trained, seed, history)

    def _go_on(self, x: Any, targets: Array, width: int) -> None:
        """One epoch more, or the first; with the optimizer's moments where the store's last run was like this one."""
        begun = self.__sklearn_is_fitted__()
        seed = self._seed if begun else self._draw_seed()
        before = self.history_.epochs if begun else ()
        # Another seed for each call, as each run counts its epochs anew.
        options = replace(self._options(seed + len(before)), epochs=1, schedule="constant", warmup=0, patience=None)
        trained = self._trained if begun else self._begin(width, seed)
        resumed = _resumed(trained.store.training if begun else None, options, int(as_dataset(x).samples))
        history = self._train(trained, x, targets, resumed or options, resume=resumed is not None)
        last = replace(history.epochs[-1], epoch=len(before) + 1)
        self._take(trained, seed, replace(history, epochs=(*before, last)))

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _options(self, seed: int) -> Options:
        """What decides the result, checked before anything is made; NumPy's numbers, as grids have them, are welcome."""
        if self.engine not in _ENGINES:
            raise InputError(f"engine {self.engine!r} cannot train: use one of {', '.join(_ENGINES)}")
        return Options(
            epochs=whole_number(self.epochs, "epochs"),
            batch_size=whole_number(self.batch_size, "batch_size"),
            loss=self._loss,
            optimizer=self.optimizer,
            lr=real_number(self.learning_rate, "learning_rate"),
            momentum=real_number(self.momentum, "momentum"),
            weight_decay=real_number(self.weight_decay, "weight_decay"),
            schedule=self.schedule,
            warmup=whole_number(self.warmup, "warmup", 0),
            dropout=real_number(self.dropout, "dropout"),
            clip_norm=None if self.clip_norm is None else real_number(self.clip_norm, "clip_norm"),
            patience=None if self.patience is None else whole_number(self.patience, "patience"),
            seed=seed,
        )

    def _begin(self, width: int, seed: int) -> Trained:
        """The store to train: the given one, or a new one of the network that is given or drawn."""
        net = self.network
        if net is None:
            net = self._drawn(width, seed)
        elif not isinstance(net, Network):
            store = open_store(net.path if isinstance(net, Store) else os.fspath(net))
            self._check_widths(store, width)
            return Trained(store)
        self._check_widths(net, width)
        nparts = whole_number(self.nparts, "nparts")
        part = partition(net, nparts, method=self.partition_method, seed=seed) if nparts > 1 else None
        place = None if self.path is None else os.path.abspath(self.path)
        trained = Trained.write(net, place, part, overwrite=place is not None and vars(self).get("_wrote") == place)
        self._wrote = place
        return trained

    def _drawn(self, width: int, seed: int) -> Network:
        given, shares = self.hidden_layer_sizes, self.density
        hidden = list(given) if isinstance(given, Sequence | np.ndarray) else [given]
        each = list(shares) if isinstance(shares, Sequence | np.ndarray) else [shares] * len(hidden)
        if len(each) != len(hidden):
            raise InputError(
                f"density has {len(each)} shares for {len(hidden)} hidden layers: give one, or one for each"
            )
        widths = (self.n_features_in_, *hidden, width)
        return random_sparse(widths, [*each, 1.0], activation=self.activation, seed=seed, dtype=self.dtype)

    def _check_widths(self, net: Network | Store, width: int) -> None:
        if (net.widths[0], net.widths[-1]) != (self.n_features_in_, width):
            raise InputError(
                f"the network {net.name!r} has {net.widths[0]} inputs and {net.widths[-1]} outputs, the data {self.n_features_in_} "
                f"features and {width} {'classes' if self._loss == 'softmax' else 'targets'}: give a network that fits"
            )

    def _train(self, trained: Trained, x: Any, targets: Array, options: Options, **how: Any) -> History:
        if trained.scratch is not None:  # nobody goes on from a checkpoint in a temporary folder
            how |= {"keep": 1, "checkpoint_every": options.epochs}
        return train(
            trained.store, x, targets, **options.as_dict(), **how, engine=self.engine, memory=self.memory,
            threads=self.threads, listener=self.listener or announce,
        )  # fmt: skip

    def _take(self, trained: Trained, seed: int, history: History) -> None:
        trained.reload()
        self._trained, self._seed = trained, seed
        self.history_ = history
        self.loss_curve_ = [epoch.loss for epoch in history.epochs]
        self.n_iter_ = len(history.epochs)


def _resumed(record: dict[str, Any] | None, options: Options, samples: int) -> Options | None:
    """Options to go on from a checkpoint for one epoch, where its run had the same, and as many samples."""
    if record is None or record.get("samples") != samples or not isinstance(record.get("options"), dict):
        return None
    resumed = replace(options, seed=record["options"].get("seed", options.seed), epochs=record["epoch"] + 1)
    same = {**record["options"], "epochs": resumed.epochs} == resumed.as_dict()
    return resumed if same and record["position"] == 0 else None
