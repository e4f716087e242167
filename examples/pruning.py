"""A dense model of scikit-learn is pruned by magnitude, and trained on as a sparse network. Takes some seconds.

    python examples/pruning.py --density 0.05

PyTorch modules come in by `sdnn.from_torch(module, density=0.05)`, files by `dasksdnn import torch|safetensors|onnx`.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import dasksdnn as sdnn
from dasksdnn.sources.images import digit_labels, digits
from dasksdnn.sources.pruning import prune_network

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--density", type=float, default=0.05, help="share of the weights that stays")
parser.add_argument("--epochs", type=int, default=12)
given = parser.parse_args()

x, t = digits(side=16).toarray(), digit_labels()
later = np.arange(len(x)) % 6 == 0  # every sixth is held back
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs are enough here
    dense = MLPClassifier((256, 256), max_iter=12, random_state=0).fit(x[~later], t[~later])
network = sdnn.from_arrays(
    dense.coefs_, biases=dense.intercepts_, orientation="inputs", output_activation="identity", dtype=np.float32
)
pruned = prune_network(network, given.density)
with tempfile.TemporaryDirectory() as folder, sdnn.progress():
    store = sdnn.save(pruned, Path(folder, "net.zarr"))
    before = np.mean(sdnn.infer(store, x[later]).compute().argmax(axis=1) == t[later])
    history = sdnn.train(
        store, x[~later], t[~later], epochs=given.epochs, lr=0.002, validation=(x[later], t[later]), seed=0
    )
after = history.epochs[-1].validation_accuracy
print(f"dense, {network.edges:,} weights: {dense.score(x[later], t[later]):.1%} right")
print(f"pruned, {pruned.edges:,} weights: {before:.1%}, and trained on: {after:.1%} right")
assert after > before
