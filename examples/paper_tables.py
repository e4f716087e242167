"""Random rows against hypergraphs on RadiX-Nets, the kind of table of Demirci and Ferhatosmanoglu (arXiv 2104.11805).

    python examples/paper_tables.py --neurons 1024 --nparts 32,64

Counted and measured here: volumes, messages, imbalance, seconds to partition, the rate of the kernels on one core.
Modelled: the time of a step of SGD on a cluster with a core for each part (dasksdnn/partition/steptime.py says how, and
what is left out). The full size takes hours; `--layers 12` shows the same per layer much sooner, since a RadiX-Net of
16 * 2**d neurons has the same kind of layers again after every d.
"""

import argparse
import json
from pathlib import Path

import dasksdnn as sdnn
from dasksdnn.bench.chart import check_chart
from dasksdnn.bench.rate import kernel_rate
from dasksdnn.diagnostics.comparison import compare
from dasksdnn.diagnostics.prediction import predict
from dasksdnn.diagnostics.progress import progress
from dasksdnn.partition.steptime import BANDWIDTH, LATENCY, Machine

METHODS = ("random", "hypergraph")


def numbers(text):
    return [int(part) for part in text.split(",")]


def counted(net, nparts, effort):
    """Partition and recount, and print what is measured."""
    with progress() as listener:
        found = compare(net, nparts, METHODS, effort=effort, listener=listener)
    print(
        f"\n{net!r}\n\ncounted (words a sample and messages a batch, forward, the first layer included), and seconds:"
    )
    print(found)
    return found


def modelled(net, found, batch, latency, bandwidth):
    """Measure the kernels at a batch size, model the steps, and print both."""
    rate = kernel_rate(net, batch)
    print(f"\nmeasured: {rate / 1e9:.3g} G multiply-adds/s at batch {batch}, one core, first layers")
    print(f"modelled: {latency * 1e6:g} us a message and {bandwidth / 1e9:g} GB/s a part are assumed")
    made = predict(found, Machine(rate, latency, bandwidth), batch)
    print(made)
    return made


def trends(found, predictions):
    """What was counted and modelled here of what the paper's abstract reports."""
    for nparts in dict.fromkeys(row.nparts for row in found.rows):
        counts = found.counted(nparts)
        if set(counts) != set(METHODS):
            continue
        random, best = (counts[method] for method in METHODS)
        words, messages = random.volume / max(1, best.volume), random.messages / max(1, best.messages)
        print(
            f"  {nparts:,} parts: hypergraph sends {words:.1f} x fewer words in {messages:.2f} x fewer messages (counted), "
            f"imbalance {best.imbalance:.3f} (counted)"
        )
        for made in predictions:
            before, after = (made.steps[method][nparts].total for method in METHODS)
            print(
                f"    batch {made.batch}: a step is {before / after:.2f} x as quick as with random rows, "
                f"{made.alone.total / after:.2f} x as quick as in one part (modelled)"
            )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--neurons", type=numbers, default=[1024, 4096, 16384, 65536], metavar="N,N")
parser.add_argument("--layers", type=int, default=120)
parser.add_argument("--nparts", type=numbers, default=[32, 64, 128, 256, 512], metavar="N,N")
parser.add_argument("--batch", type=numbers, default=[1, 64], metavar="N,N")
parser.add_argument("--effort", default="fast", help="how long hypergraphs are refined: none, fast, default or best")
parser.add_argument("--latency", type=float, default=LATENCY, help="seconds a message")
parser.add_argument("--bandwidth", type=float, default=BANDWIDTH, help="bytes a second that a part can send")
parser.add_argument("--json", type=Path, help="write everything as JSON, too")
parser.add_argument("--charts", type=Path, metavar="FOLDER", help="draw each network's comparison there")
arguments = parser.parse_args()

if arguments.charts:
    check_chart(arguments.charts / "radixnet.png")  # before the work: some of it takes hours
    arguments.charts.mkdir(parents=True, exist_ok=True)

report = []
for neurons in arguments.neurons:
    net = sdnn.radixnet(neurons, arguments.layers)
    found = counted(net, arguments.nparts, arguments.effort)
    predictions = [modelled(net, found, n, arguments.latency, arguments.bandwidth) for n in arguments.batch]
    print(
        "\nThe abstract: training by rows scales; hypergraphs lower the volume, even the load, and quicken it more. Here:"
    )
    trends(found, predictions)
    report.append({"counted": found.as_dict(), "modelled": [made.as_dict() for made in predictions]})
    if arguments.json:  # after each network: the next may take an hour
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.charts:
        found.chart(arguments.charts / f"radixnet-{neurons}.png", overwrite=True)
