"""A step of training as a task graph of row blocks: the paper's algorithm in plain dask, and the engine agrees.

    python examples/plain_backprop.py

Every part's forward, backward and update is a task, every message of the communication plan a task of its own: forward, an
owner's activations go to those who need them (expand); back, partial sums return to the owner, who adds them up (fold); the
gradient of a block needs what its part has already, and never moves. `sdnn.train` on a cluster does the same with one
long-lived task a worker: steps of milliseconds are too short for a scheduler.
"""

import tempfile
from pathlib import Path

import dask
import numpy as np

import dasksdnn as sdnn

task = dask.delayed(pure=False)


@task
def panel(own, *received):
    return np.concatenate([own, *received])


@task
def forward(block, x):
    return np.maximum(block.tocsr() @ x + block.bias[:, None], 0)


@task
def back(block, x, delta):
    """Partial sums for the block's input panel, times the derivative, which follows from the activations themselves."""
    return (block.tocsr().T @ delta) * (x > 0)


@task
def start(block, y, target):
    """The derivative of the mean squared error: a part needs the targets of its own rows."""
    return 2 / target.size * (y - target.T[block.rows]) * (y > 0)


@task
def take(values, rows):
    return values[rows]


@task
def fold(partial, own, messages):
    total = partial[:own].copy()
    for rows, values in messages:
        total[rows] += values
    return total


@task
def update(block, x, delta, lr):
    """Weights and biases behind a step of SGD: the gradient exists on the pattern only."""
    row = np.repeat(np.arange(block.rows.size), np.diff(block.indptr))
    gradient = (delta[row] * x[block.indices]).sum(axis=1)
    return block.data - lr * gradient, block.bias - lr * delta.sum(axis=1)


def step(store, x, t, lr):
    """The new weights and biases of every block, lazily: {(layer, part): (data, bias)}."""
    parts, plan = range(store.nparts), store.comm_plan().layers
    blocks = [[store.block(p, k) for p in parts] for k in range(len(store))]
    # The first layer reads the dataset; every part has what its rows need of it.
    panels = [[task(x.T[b.columns]) for b in blocks[0]]]
    for k in range(len(store)):
        y = [forward(blocks[k][p], panels[k][p]) for p in parts]
        if k + 1 < len(store):
            sent = {(q, to): take(y[q], rows) for q in parts for to, rows in plan[k + 1].sends(q)}
            panels.append([panel(y[p], *(sent[q, p] for q, _ in plan[k + 1].receives(p))) for p in parts])
    delta = [start(blocks[-1][p], y[p], t) for p in parts]
    after = {}
    for k in reversed(range(len(store))):
        after |= {(k, p): update(blocks[k][p], panels[k][p], delta[p], lr) for p in parts}
        if k:
            partial = [back(blocks[k][p], panels[k][p], delta[p]) for p in parts]
            reverse = plan[k].reverse()
            sent = {(p, to): take(partial[p], rows) for p in parts for to, rows in reverse.sends(p)}
            delta = [
                fold(partial[p], int(plan[k].own[p]), [[rows, sent[q, p]] for q, rows in reverse.receives(p)])
                for p in parts
            ]
    return after


def main():
    with tempfile.TemporaryDirectory() as folder:
        net = sdnn.random_sparse(
            [20, 60, 60, 40, 8], [0.3, 0.2, 0.2, 0.5], output_activation="relu", seed=1, dtype="float64"
        )
        store = sdnn.save(net, Path(folder, "net.zarr"), partition=sdnn.partition(net, nparts=3))
        rng = np.random.default_rng(0)
        x, t = rng.standard_normal((50, 20)), rng.random((50, 8))
        with dask.config.set(scheduler="synchronous"):
            (after,) = dask.compute(step(store, x, t, 0.5))
        sdnn.train(store, x, t, loss="mse", optimizer="sgd", lr=0.5, epochs=1, batch_size=50)
        trained = sdnn.open_store(store.path)
        for (k, p), (data, bias) in after.items():
            block = trained.block(p, k)
            np.testing.assert_allclose(block.data, data, rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(block.bias, bias, rtol=1e-10, atol=1e-13)
        print(f"agree: {len(after)} blocks, {sum(data.size for data, _ in after.values()):,} weights after a step")


if __name__ == "__main__":
    main()
