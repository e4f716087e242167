"""The command that makes a page of what another command wrote."""

from __future__ import annotations

from pathlib import Path

import click

from dasksdnn.cli.options import OVERWRITE, PATH
from dasksdnn.cli.outputs import check_outputs
from dasksdnn.diagnostics.tables import show


@click.command(short_help="Make a page of what a command wrote with --json.")
@click.argument("run", type=PATH, metavar="RUN.json")
@click.option("--html", "html", type=PATH, metavar="FILE", required=True, help="Page to make.")
@OVERWRITE
def report(run: Path, html: Path, overwrite: bool) -> None:
    """Make a page of RUN.json, which a command wrote with --json: infer, train, partition, bench, or another.

    The page is one file that loads nothing: tables, and pictures of epochs, ranks, partitions and contenders.
    """
    from dasksdnn.atomic import replacing
    from dasksdnn.diagnostics.report import read_record, render

    check_outputs(overwrite, files=[html], inputs=[run])
    record = read_record(run)
    text = render(record, str(run))
    with replacing(html, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    show(f"report: {html}", {"command": record["command"], "size": f"{len(text.encode(errors='replace')):,} bytes"})
