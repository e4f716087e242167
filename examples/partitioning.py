"""Partition a network in several ways, and draw what it means. Takes some seconds; pictures need `dasksdnn[plot]`.

python examples/partitioning.py --out FOLDER
"""

import argparse
from pathlib import Path

import dasksdnn as sdnn
from dasksdnn.diagnostics.comparison import compare

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, required=True, help="an existing folder, for a store and pictures")
parser.add_argument("--neurons", type=int, default=512)
parser.add_argument("--nparts", type=int, default=8)
given = parser.parse_args()

with sdnn.progress():
    # As pruned networks are: most weights are inside communities, but nothing in the numbering shows it.
    net = sdnn.community(given.neurons, 4, seed=0)
    found = compare(net, [given.nparts], ["random", "block", "metis", "mtkahypar", "hypergraph"], effort="fast")
    part = sdnn.partition(net, given.nparts, effort="fast")
    store = sdnn.save(net, given.out / "net.zarr", partition=part)
print(found)
sdnn.plots.spy(store, layer=2).savefig(given.out / "spy.png")
sdnn.plots.sends(part).savefig(given.out / "sends.png")
sdnn.plots.volume(hypergraph=part, random=sdnn.partition(net, given.nparts, method="random")).savefig(
    given.out / "volume.png"
)
sdnn.plots.load(part).savefig(given.out / "load.png")
volumes = {row.method: row.metrics.volume for row in found.rows}
assert volumes["hypergraph"] <= 1.01 * min(volumes.values())
print(f"{volumes['random'] / volumes['hypergraph']:.2f} times fewer words than random rows send")
