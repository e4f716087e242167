"""`train`: epochs of shuffled batches through an engine, checkpoints as generations of the store, and going on from them.

    samples --stream (shuffled)--> batch --engine: forward, loss, backward, update--> ... --every so often--> checkpoint

Here is what may be asked for; `run` does it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from dasksdnn.errors import InputError
from dasksdnn.events import Listener, announce
from dasksdnn.store.checkpoints import writing
from dasksdnn.store.reader import Store, open_store
from dasksdnn.training.history import History
from dasksdnn.training.options import Every, Options
from dasksdnn.training.run import Run

#: Engines that can train.
ENGINES = ("local", "dask", "mpi")


def train(
    store: Store | str | Path,
    x: Any,
    y: Any,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    loss: str = "softmax",
    optimizer: str = "adam",
    lr: float = 1e-3,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    warmup: int = 0,
    dropout: float = 0.0,
    clip_norm: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    shuffle_buffer: int | None = None,
    init: str | None = None,
    evolve: str | None = None,
    evolve_every: int = 1,
    drop: float = 0.3,
    target_density: float | None = None,
    new_communication: bool = True,
    validation: tuple[Any, Any] | None = None,
    checkpoint_every: int | str = 1,
    keep: int = 2,
    resume: bool = False,
    memory: str | int | None = None,
    threads: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    engine: str | None = None,
    client: Any = None,
    strategy: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    listener: Listener = announce,
) -> History:
    """Train the network in a store by backprop; each checkpoint is a new generation of the store.

    Neither the weights and their optimizer's state nor the samples need to fit in memory.

    Parameters
    ----------
    store : Store or path
        Where training begins, and where its checkpoints go.
    x : array or dataset of shape (samples, inputs)
        Whatever `infer` takes.
    y : array, dask.array or path
        For softmax the class of each sample, from 0 up, shape (samples,). For mse and bce numbers of shape
        (samples, outputs), or (samples,) for one output.
    epochs, batch_size : int
        The last batch of an epoch may be smaller.
    loss : {"softmax", "mse", "bce"}
        Cross-entropy of the softmax of the outputs; squared error; cross-entropy of each output, which the last layer's
        sigmoid gives, or of which it is the logit. Means over the batch, and over the outputs for the last two.
    optimizer : {"sgd", "momentum", "adam", "adamw"}
    lr, momentum, nesterov, weight_decay
        As PyTorch defines them.
    schedule : {"constant", "step", "cosine"}
        Of the learning rate: constant, a tenth after every 10 epochs, or falling to zero as a half cosine.
    warmup : int
        Steps in which the rate rises to `lr`.
    dropout : float
        Share of the outputs of hidden layers that a step drops.
    clip_norm : float, optional
        The most that the norm of a step's gradient may be.
    patience : int, optional
        End after so many epochs without a lower loss (of validation, where given), and return to the best one.
    seed : int
        Of the order of samples and of dropout.
    shuffle_buffer : int, optional
        Samples that are shuffled together; by default 64 MiB of them.
    init : {"he", "glorot"}, optional
        Draw the weights anew first, by each row's own degree; the state before stays as an earlier generation.
    evolve : {"magnitude", "set", "rigl"}, optional
        Change the pattern between epochs, for the first three quarters of them: prune the smallest weights of every layer
        but the last, down to `target_density` along a cubic schedule; or drop a share of each row's smallest weights and
        grow as many elsewhere, at random or where the gradient of a batch is largest.
    evolve_every : int
        Epochs from one change to the next.
    drop : float
        That share at first; it falls along a cosine.
    target_density : float, optional
    new_communication : bool
        False: edges grow only where parts do not have to receive anything new, so that the volume cannot rise.
    validation : (x, y), optional
        Looked at after each epoch.
    checkpoint_every : int or str
        Epochs, or "500 steps", "10 min". The last epoch always ends with one.
    keep : int
        Newest checkpoints that are kept, besides the best one and the state that training began with.
    resume : bool
        Go on from the store's checkpoint, with its plan, where it has one of such a run; the result has the same bits as if
        nothing had come between.
    memory, threads
        Budget of the process at its peak, and threads, as for `infer`.
    scratch : path, optional
        Folder for what does not fit in memory; by default the system's for temporary files.
    engine : {"local", "dask", "mpi"}, optional
        In this process, or on the workers of a Dask cluster, which all have to be able to read and write the store's path;
        "dask" where a client is given. `memory`, `threads` and `scratch` are then each worker's. Where workers are lost, the
        run goes on by itself from its last checkpoint, on those that are there. "mpi": among the processes that `mpiexec`
        started, which all make the same call; one that fails ends all, and `resume` goes on, also with another number.
    client : distributed.Client, optional
        Of the cluster; by default the current one.
    strategy : {"samples", "parts"}, optional
        Split the samples of a batch over the workers, or the parts of the network; by default what should be faster, and
        with MPI parts as far as there are ranks, and samples over groups of ranks that have all parts.
    trace : path, optional
        With MPI: a timeline of all ranks that is to be written there, for chrome://tracing or Perfetto.
    listener : callable
        Told of samples trained.

    Returns
    -------
    History
        Epoch by epoch. `open_store` gives the trained network.

    Raises
    ------
    InputError
        Something of the arguments, samples or targets cannot be used.
    MemoryBudgetError
        The budget cannot work; says the smallest that would.
    TrainingError
        The loss is NaN or infinite. The last checkpoint is intact.
    StoreError
        The store cannot be written, or is of another run.

    Examples
    --------
    >>> import dasksdnn as sdnn, numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> net = sdnn.random_sparse([8, 32, 2], 0.5)
    >>> store = sdnn.save(net, folder.name + "/net.zarr")
    >>> x = np.random.default_rng(0).random((256, 8), np.float32)
    >>> history = sdnn.train(store, x, (x[:, 0] > x[:, 1]).astype(int), epochs=30, lr=0.01)
    >>> history.epochs[-1].accuracy > 0.9
    True
    >>> folder.cleanup()
    """
    engine = engine or ("local" if client is None else "dask")
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} cannot train: use one of {', '.join(ENGINES)}")
    if engine != "dask" and client is not None:
        raise InputError("client is for the Dask engine: leave it out, or say engine='dask'")
    if engine == "local" and strategy is not None:
        raise InputError("strategy is for engines of many processes: leave it out, or say engine='dask' or 'mpi'")
    if engine != "mpi" and trace is not None:
        raise InputError("trace is for the MPI engine: leave it out, or say engine='mpi'")
    if strategy not in (None, "samples", "parts"):
        raise InputError(f"strategy is {strategy!r}: choose 'samples' or 'parts', or leave the choice to the plan")
    with _ranks(engine, trace) as world:
        options = Options(
            epochs, batch_size, loss, optimizer, lr, momentum, nesterov, weight_decay, schedule, warmup, dropout, clip_norm,
            patience, seed, shuffle_buffer, init, evolve, evolve_every, drop, target_density, new_communication,
        )  # fmt: skip
        every = Every.parse(checkpoint_every)
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise InputError(f"keep {keep!r} is not usable: at least 1 checkpoint stays, the newest")
        if scratch is not None and not isinstance(scratch, str | os.PathLike):
            raise InputError(f"scratch {scratch!r} is no path: name a folder")
        if scratch is not None and not os.access(scratch, os.W_OK | os.X_OK):
            raise InputError(f"scratch {os.fspath(scratch)}: not a folder that can be written: name one")
        opened = open_store(store.path if isinstance(store, Store) else store)
        options.loss_function().check(opened.activations[-1], opened.widths[-1])
        if engine == "dask":
            from dasksdnn.engines.cluster.workers import find_client
            from dasksdnn.training.distribution import train_on

            return train_on(
                find_client(client), opened, options, every, keep, resume, x, y, validation,
                memory=memory, threads=threads, scratch=scratch, strategy=strategy, listener=listener,
            )  # fmt: skip
        if world is not None:
            from dasksdnn.training.ranks import train_by_ranks

            return train_by_ranks(
                world, opened, options, every, keep, resume, x, y, validation,
                memory=memory, threads=threads, scratch=scratch, strategy=strategy, trace=trace, listener=listener,
            )  # fmt: skip
        with writing(opened):
            run = Run(opened, options, every, keep, resume, listener)
            return complete(run, x, y, validation, memory, threads, scratch)


def _ranks(engine: str, trace: Any) -> AbstractContextManager[Any]:
    """The world of MPI's ranks, where that is the engine, else None: what fails at one of them is not to keep others waiting."""
    if engine != "mpi":
        return nullcontext()
    from dasksdnn.engines.mpi.run import enter_world

    return enter_world(trace)


def complete(
    run: Run, x: Any, y: Any, validation: tuple[Any, Any] | None, memory: Any, threads: Any, scratch: Any
) -> History:
    """Take a run from its samples to its end; see `train`. Hold `writing` meanwhile."""
    samples = run.samples(x, y, "x")
    looked_at = None if validation is None else run.samples(*validation, "validation")
    run.prepare(samples, looked_at, memory, threads)
    run.scratch = scratch
    try:
        run.begin()
        run.start()
        return run.go()
    finally:
        run.close()
