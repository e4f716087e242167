"""Commands that look at stores, and the demo."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.describe import describe, facts
from dasksdnn.cli.options import JSON, STORE, THREADS, number
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import count, show, write_json
from dasksdnn.errors import DaskSDNNError, MemoryBudgetError

#: Faults that are printed; a report has all of them.
SHOWN = 100


@click.command(short_help="Say what is in a store.")
@STORE
@JSON
def info(store: Path, json_path: Path | None) -> None:
    """Say what is in STORE."""
    from dasksdnn.store.reader import open_store

    opened = open_store(store)
    write_json(json_path, {"command": "info", "store": str(store), **facts(opened)})
    show(f"info: {store}", describe(opened))


@click.command(short_help="Check every digest, count and index of a store.")
@STORE
@JSON
@click.pass_context
def verify(context: click.Context, store: Path, json_path: Path | None) -> None:
    """Read all of STORE and check every digest, count and index.

    What is wrong is named by array, part and layer, a line each on stderr, and the exit status is 2.
    """
    from dasksdnn.store.verify import verify as check

    start = perf_counter()
    with progress() as listener:
        findings = check(store, listener=listener)
    seconds, peak = perf_counter() - start, host.peak_resident()
    write_json(
        json_path,
        {
            "command": "verify",
            "store": str(store),
            "sound": not findings,
            "findings": [f.as_dict() for f in findings],
            "seconds": seconds,
            "peak_rss_bytes": peak,
        },
    )
    for finding in findings[:SHOWN]:
        click.echo(f"dasksdnn: {_line(finding)}", err=True)
    if len(findings) > SHOWN:
        click.echo(f"dasksdnn: and {len(findings) - SHOWN:,} more; --json FILE lists them all", err=True)
    verdict = f"damaged: {count(len(findings), 'fault')}" if findings else "sound"
    show(f"verify: {store}", {"verdict": verdict, "seconds": f"{seconds:.2f}", "peak memory": host.format_bytes(peak)})
    context.exit(2 if findings else 0)


def _line(finding: Any) -> str:
    """One line that names the layer, where it is known; the advice to run this very command is left out."""
    message = " ".join(finding.message.replace("run 'dasksdnn verify' to see all that is damaged, and ", "").split())
    return message if finding.layer is None or "layer " in message else f"{message} (from layer {finding.layer} on)"


@click.command(short_help="Partition, store, stream and check embedded data.")
@number("--nparts", "Number of parts.", default=8)
@click.option(
    "--memory",
    default="512MiB",
    show_default=True,
    metavar="SIZE",
    help="The most memory that the command may hold.",
)
@click.option("--keep", is_flag=True, help="Keep the demo's store and outputs in the data folder.")
@THREADS
@JSON
def demo(nparts: int, memory: str, keep: bool, threads: int | None, json_path: Path | None) -> None:
    """Run the main job on data that is embedded.

    A RadiX-Net of 120 layers of 1,024 neurons is partitioned and stored, real handwritten digits are streamed through
    it within a memory budget, and a sample of the outputs is compared with an independent run in SciPy.
    """
    from dasksdnn.config import data_root
    from dasksdnn.diagnostics.demo import run_demo

    directory = data_root() / "demo" if keep else None
    with progress() as listener:
        record, rows = run_demo(nparts=nparts, memory=memory, directory=directory, threads=threads, listener=listener)
    if directory is not None:
        rows["kept in"] = str(directory)
    write_json(json_path, {"command": "demo", **record})
    show("demo: RadiX-Net, 120 layers of 1,024 neurons, on handwritten digits", rows)
    if not record["matches_reference"]:
        raise DaskSDNNError("the outputs do not match the SciPy reference: please report this with the table above")
    if record["peak_rss_bytes"] > record["plan"]["budget_bytes"]:
        raise MemoryBudgetError("the run held more memory than its budget: please report this with the table above")
