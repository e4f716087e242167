"""The sparse DNN Graph Challenge on MNIST: generate a network, enlarge the images, run, and say how fast.

    python examples/graphchallenge.py --mnist train-images-idx3-ubyte.gz --neurons 1024 --layers 120 --memory 2GiB

The challenge's inputs are the 60,000 training images of MNIST (in IDX files, from wherever you keep them) enlarged to
sqrt(N) x sqrt(N) pixels; its networks are RadiX-Nets, which `dasksdnn` makes itself.
"""

import argparse
import gzip
import json
import math
import tempfile
from pathlib import Path

import numpy as np

import dasksdnn as sdnn
from dasksdnn.sources.images import enlarge

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--mnist", required=True, type=Path, help="IDX file of images, plain or gzip")
parser.add_argument("--neurons", type=int, default=1024)
parser.add_argument("--layers", type=int, default=120)
parser.add_argument("--samples", type=int, default=60_000)
parser.add_argument("--weights", choices=["constant", "random"], default="constant")
parser.add_argument("--memory")
parser.add_argument("--threads", type=int)
parser.add_argument("--repeat", type=int, default=3)
arguments = parser.parse_args()

raw = (gzip.open if arguments.mnist.suffix == ".gz" else open)(arguments.mnist).read()
images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[: arguments.samples]
x = enlarge(images, side=math.isqrt(arguments.neurons))
with tempfile.TemporaryDirectory() as folder:
    net = sdnn.radixnet(arguments.neurons, arguments.layers, weights=arguments.weights)
    store = sdnn.save(net, Path(folder, "net.zarr"))
    runs = [
        sdnn.infer(store, x, out="categories", memory=arguments.memory, threads=arguments.threads)
        for _ in range(arguments.repeat)
    ]
    seconds = sorted(run.seconds for run in runs)
    print(runs[0].plan)
    report = {
        "neurons": arguments.neurons,
        "layers": arguments.layers,
        "samples": x.shape[0],
        "edges": net.edges,
        "categories": len(runs[0].categories),
        "seconds": {"median": seconds[len(seconds) // 2], "least": seconds[0], "most": seconds[-1]},
        "edges_per_second": runs[0].samples * net.edges / seconds[len(seconds) // 2],
        "peak_rss_bytes": runs[-1].peak_rss,
        "stored_bytes": store.stored_bytes(),
    }
    print(json.dumps(report, indent=1))
