"""Sparse networks learn MNIST: 784-1024-1024-10 at a density of 5% and 1%, and a RadiX-Net of 12 layers.

    python examples/train_mnist.py --mnist FOLDER            (the four IDX files, as published, .gz or not)

Each is trained from random weights on its sparse pattern, by Adam with dropout and a rate that falls along a cosine; the
output layer is dense. Printed are each epoch's losses and accuracies; the test images are only looked at.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import dasksdnn as sdnn
from dasksdnn.diagnostics.progress import progress
from dasksdnn.sources.datasets import read_labels


def images(folder, kind):
    """Pixels from 0 to 1 of shape (samples, 784), and labels."""
    path = next(p for ending in ("", ".gz") if (p := folder / f"{kind}-images-idx3-ubyte{ending}").is_file())
    dataset = sdnn.open_dataset(path)
    pixels = dataset.read(0, dataset.samples).astype(np.float32) / 255
    return pixels, read_labels(path.with_name(path.name.replace("images-idx3", "labels-idx1")))


def framed(pixels):
    """The images in a frame of zeros, 32 x 32: a RadiX-Net has 1,024 inputs."""
    wide = np.zeros((len(pixels), 32, 32), np.float32)
    wide[:, 2:30, 2:30] = pixels.reshape(-1, 28, 28)
    return wide.reshape(-1, 1024)


def radixnet(layers, seed):
    """The pattern of a RadiX-Net with weights to be trained, and a dense layer of ten outputs behind it."""
    net = sdnn.initialise(sdnn.radixnet(neurons=1024, layers=layers), seed=seed)
    relu = [sdnn.Layer(layer.weights, layer.bias, sdnn.Activation("relu")) for layer in net]
    return sdnn.Network.from_layers([*relu, *sdnn.random_sparse([1024, 10], 1.0, seed=seed)], f"radixnet-{layers}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=None, help="train on so many only")
    parser.add_argument("--layers", type=int, default=12, help="of the RadiX-Net")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    (x, t), (x_test, t_test) = images(given.mnist, "train"), images(given.mnist, "t10k")
    x, t = x[: given.samples], t[: given.samples]
    wide, wide_test = framed(x), framed(x_test)
    cases = {
        "5%": (sdnn.random_sparse([784, 1024, 1024, 10], [0.05, 0.05, 1.0], seed=given.seed), x, x_test, 0.002, 0.2),
        "1%": (sdnn.random_sparse([784, 1024, 1024, 10], [0.01, 0.01, 1.0], seed=given.seed), x, x_test, 0.004, 0.05),
        f"RadiX-Net, {given.layers} layers": (radixnet(given.layers, given.seed), wide, wide_test, 0.001, 0.0),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (net, samples, test, lr, dropout) in cases.items():
            store = sdnn.save(net, Path(folder, "net.zarr"), overwrite=True)
            with progress() as listener:
                history = sdnn.train(
                    store, samples, t, epochs=given.epochs, batch_size=128, lr=lr, schedule="cosine", dropout=dropout,
                    validation=(test, t_test), seed=given.seed, checkpoint_every=given.epochs, listener=listener,
                )  # fmt: skip
            print(f"\n{name}: {net!r}\n{history!r}")
            found[name] = history.as_dict()
    for name, history in found.items():
        last = history["epochs"][-1]
        seconds = sum(epoch["seconds"] for epoch in history["epochs"])
        print(
            f"{name}: {last['validation_accuracy']:.4f} of the test images are right, "
            f"{last['edges']:,} weights, {seconds:.1f} s of training"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
