"""The command's entry: errors that a user can mend are one line on stderr and status 2."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

import dasksdnn
from dasksdnn.cli import bench, converting, looking, making, partitioning, reporting, running, training
from dasksdnn.cli.options import Commands
from dasksdnn.cli.signals import StoppedError, stoppable
from dasksdnn.errors import DaskSDNNError

#: Newer versions of click raise this where a group is called without a command; older ones print the help themselves.
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


_HELP = """Sparse deep neural networks: partitioned by hypergraph, stored in Zarr, run out of core.

\b
Try it on embedded data:
  dasksdnn demo
Or step by step:
  dasksdnn generate radixnet --neurons 1024 --layers 120 --out net.zarr
  dasksdnn partition net.zarr --nparts 8 --out net8.zarr
  dasksdnn infer net8.zarr --input x.tsv --output y.zarr --memory 512MiB
  dasksdnn train net8.zarr --data x.npy --labels y.npy --epochs 5 --memory 1GiB
"""


class _Main(Commands):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # click would print an empty line for it
            raise StoppedError(getattr(stop, "number", signal.SIGINT)) from stop


@click.group(cls=_Main, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(dasksdnn.__version__, prog_name="dasksdnn")
def cli() -> None:
    """See _HELP."""


for command in (
    looking.demo,
    making.generate,
    making.import_,
    partitioning.partition,
    running.plan,
    running.infer,
    training.train,
    running.evaluate,
    looking.info,
    looking.verify,
    converting.export,
    reporting.report,
    bench.bench,
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with status 1 where outputs differ, 2 on an error, 128 + the signal where stopped."""
    _never_fail_to_print()
    with stoppable(), _log_apart():
        status = _run(arguments)
    if status:
        sys.exit(status)


@contextmanager
def _log_apart() -> Iterator[None]:
    """Keep the log off stderr, which has the progress and one line for an error: it is for those who collect it."""
    log, nowhere = logging.getLogger("dasksdnn"), logging.NullHandler()
    log.addHandler(nowhere)
    try:
        yield
    finally:
        log.removeHandler(nowhere)


def _run(arguments: list[str] | None) -> int:
    try:
        status = cli.main(arguments, prog_name="dasksdnn", standalone_mode=False)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except _NO_ARGUMENTS as error:
        click.echo(error.format_message())
        return 0
    except BrokenPipeError:
        _drop_output()
        return 1
    except (KeyboardInterrupt, StoppedError, click.Abort) as stop:
        if not _said_elsewhere(stop):
            _say("; ".join(["stopped", *(_notes(stop) or _notes(stop.__cause__) or ["nothing was left half-written"])]))
        return 128 + int(getattr(stop, "number", signal.SIGINT))
    except (click.ClickException, DaskSDNNError, MemoryError, OSError) as error:
        if not _said_elsewhere(error):
            _say(_explain(error))
        return 2
    return int(status or 0)


def _said_elsewhere(error: BaseException) -> bool:
    """Whether another process of the same launcher says the same: one line is enough."""
    from dasksdnn.engines.mpi.world import launched, said_elsewhere

    if isinstance(error, click.ClickException):  # of the command line, which is the same for all
        told = launched(os.environ)
        return told is not None and told[0] > 0
    return any(said_elsewhere(e) for e in (error, error.__cause__) if e is not None)


def _explain(error: Exception) -> str:
    """One line: what is wrong, and what to do."""
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "dasksdnn"
        return f"{error.format_message().rstrip('.')}; see '{command} --help'"
    if isinstance(error, DaskSDNNError):
        return "; ".join([str(error), *_notes(error)])
    if isinstance(error, MemoryError):
        return "the system refused more memory: use a smaller --memory, or fewer --threads"
    assert isinstance(error, OSError)
    from dasksdnn.atomic import storage_error

    if error.filename is None:
        _drop_output()  # most likely it is stdout that is full: do not try it again at exit
    return str(storage_error(error.filename or "the output", error))


def _notes(error: BaseException | None) -> list[str]:
    """What the library has to add: what an interrupted command keeps."""
    return getattr(error, "__notes__", [])


def _say(message: str) -> None:
    with suppress(OSError):
        click.echo(f"dasksdnn: {' '.join(message.split())}", err=True)


def _never_fail_to_print() -> None:
    """Names of files may hold bytes that are no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """The reader of our output is gone; keep the interpreter from complaining about it at exit."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
