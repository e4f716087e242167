"""The command that cuts a network into parts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from dasksdnn import host
from dasksdnn.cli.comparing import BESIDE_MODELS, MODELS, TIMED, modelling, show_modelled
from dasksdnn.cli.describe import describe, facts
from dasksdnn.cli.options import JSON, OVERWRITE, PATH, SEED, STORE, number, numbers
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.progress import progress
from dasksdnn.diagnostics.tables import show, write_json
from dasksdnn.errors import InputError

_SAID = click.core.ParameterSource.COMMANDLINE


@click.command(short_help="Assign rows to parts, and write the store anew.")
@STORE
@click.option("--nparts", metavar="N", help="Number of parts; several, as in 4,8,32, to compare or predict.")
@click.option(
    "--method",
    metavar="NAME",
    default="hypergraph",
    show_default=True,
    help="hypergraph (the better of mtkahypar and metis, refined), mtkahypar, kahypar, metis, block or random.",
)
@click.option(
    "--effort",
    metavar="LEVEL",
    default="default",
    show_default=True,
    help="How long hypergraph refines: none, fast (seconds), default (a minute or two) or best (ten times that).",
)
@click.option(
    "--objective",
    metavar="NAME",
    default="volume",
    show_default=True,
    help="What hypergraph makes least: volume, or the time of the exchanges, by --latency, --bandwidth and --batch.",
)
@click.option(
    "--training", is_flag=True, help="Count words of all layers but the first twice: they are sent back, too."
)
@number("--time-limit", "Seconds after which hypergraph stops refining; not repeatable.", float)
@number("--epsilon", "Allowed imbalance of a layer's nonzeros.", float, default=0.03)
@SEED
@click.option("--no-cache", is_flag=True, help="Neither take the partition from the cache nor keep it there.")
@click.option(
    "--owner",
    type=PATH,
    metavar="FILE",
    help="Use this partition: of --save-owner, or .npy or .npz with the part of each neuron, layer after layer.",
)
@click.option("--save-owner", type=PATH, metavar="FILE", help="Save the partition as a file (.npz), too.")
@click.option("--out", type=PATH, metavar="STORE", help="Store to make; without --compare and --predict, required.")
@OVERWRITE
@click.option(
    "--resume", is_flag=True, help="Go on where the same command was stopped; if stopped, keep what is written."
)
@JSON
@modelling
@click.pass_context
def partition(
    context: click.Context,
    /,
    store: Path,
    nparts: str | None,
    method: str,
    effort: str,
    objective: str,
    training: bool,
    time_limit: float | None,
    epsilon: float,
    seed: int,
    no_cache: bool,
    owner: Path | None,
    save_owner: Path | None,
    out: Path | None,
    overwrite: bool,
    resume: bool,
    json_path: Path | None,
    **modelled: Any,
) -> None:
    """Assign the rows of every layer of STORE to parts, and write it anew, laid out by them.

    Volume counts the words that the parts send each other for a sample, messages the pairs of parts that exchange
    something in a layer. Both are counted by code that the partitioners do not share.

    With --compare, methods are counted side by side instead; with --predict, steps of SGD are modelled from what is
    counted: what computing, messages and words take of one on a cluster with a core for each part.
    """
    _check_choice(context)
    counts = numbers(nparts, "nparts", ())
    how: dict[str, Any] = {"epsilon": epsilon, "seed": seed, "cache": not no_cache, "effort": effort}
    how |= {"objective": objective, "training": training, "time_limit": time_limit}
    if modelled["compare"] or modelled["predict"]:
        show_modelled(store, counts, how, overwrite=overwrite, json_path=json_path, **modelled)
        return
    from dasksdnn.partition.partition import Partition
    from dasksdnn.partition.partition import partition as assign
    from dasksdnn.store.reader import open_store
    from dasksdnn.store.writer import save

    assert out is not None
    given = [] if owner is None else [owner]
    check_outputs(overwrite, stores=[out], files=[save_owner], report=json_path, inputs=given)
    start = perf_counter()
    net = open_store(store).network
    with progress() as listener:
        if owner is not None:
            made = Partition.load(owner, net)
        else:
            said = {name: modelled[name] for name in ("latency", "bandwidth") if modelled[name] is not None}
            batches = () if modelled["batch"] is None else numbers(modelled["batch"], "batch", ())
            if len(batches) > 1:
                raise InputError(
                    f"batch: a partition is made for one batch size, not {len(batches)}; --predict takes several"
                )
            if batches:
                said["batch"] = batches[0]
            made = assign(net, counts[0], method=method, listener=listener, **how, **said)
        written = save(net, out, partition=made, overwrite=overwrite, resume=resume, listener=listener)
    if save_owner is not None:
        made.save(save_owner, overwrite=overwrite)
    seconds, peak = perf_counter() - start, host.peak_resident_tree()
    rows = {
        **describe(written),
        "seconds": f"{seconds:.2f} ({made.seconds:.2f} partitioning{', reused' * made.reused})",
        **({} if made.repeatable else {"repeatable": "no: a time limit was set, or a library failed"}),
        **{f"note {i + 1}": note for i, note in enumerate(made.notes)},
        "peak memory": host.format_bytes(peak),
    }
    write_json(
        json_path,
        {
            "command": "partition",
            "store": str(out),
            **facts(written),
            "recount": made.metrics.as_dict(),
            "partition_seconds": made.seconds,
            **{name: getattr(made, name) for name in ("effort", "objective", "repeatable", "notes", "reused")},
            "seconds": seconds,
            "peak_rss_bytes": peak,
        },
    )
    show(f"partition: {out}", rows)


#: Options that go with a partition that is given.
_BESIDE_OWNER = ("store", "owner", "save_owner", "out", "overwrite", "resume", "json_path")


def _check_choice(context: click.Context) -> None:
    """A partition is either given, or made, or several are made and only shown."""
    given = context.params
    modelled = given["compare"] or given["predict"]
    if given["owner"] is not None:
        _only(context, _BESIDE_OWNER, "--owner gives the partition")
    elif given["nparts"] is None:
        raise click.UsageError("Missing option '--nparts', or '--owner' for a partition that is given", context)
    if modelled:
        _only(context, BESIDE_MODELS, "--compare and --predict take --methods and write no store")
        return
    timed = TIMED if given["objective"] == "time" else ()
    _only(
        context,
        set(given) - set(MODELS) | set(timed),
        "without --compare, --predict or --objective time nothing is modelled",
    )
    if given["out"] is None:
        raise click.UsageError("Missing option '--out'", context)
    if "," in (given["nparts"] or ""):
        raise click.UsageError(
            f"nparts {given['nparts']}: a store has one; --compare and --predict take several", context
        )


def _only(context: click.Context, allowed: Collection[str], why: str) -> None:
    """Refuse what was said and is not allowed."""
    said = [p for p in context.command.params if context.get_parameter_source(p.name or "") == _SAID]
    surplus = [p.opts[0] for p in said if p.name not in allowed]
    if surplus:
        raise click.UsageError(f"{why}: leave out {', '.join(surplus)}", context)
