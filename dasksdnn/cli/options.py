"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dasksdnn.cli.outputs import check_report
from dasksdnn.errors import InputError

PATH: Any = click.Path(path_type=Path)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Commands(click.Group):
    """Commands in the order in which they were added, not in that of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, for the help."""
        return list(self.commands)


def number(name: str, help: str, kind: type = int, **settings: Any) -> Decorator:
    """Make an option that takes a number; the library, not click, says which numbers are usable."""
    shown = settings.get("default") is not None
    return click.option(name, type=kind, metavar="N" if kind is int else "X", show_default=shown, help=help, **settings)


def names(text: str | None, default: Sequence[str]) -> list[str]:
    """Read "a,b"; the default where nothing is given."""
    return list(default) if text is None else list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def numbers(text: str | None, name: str, default: Sequence[int]) -> list[int]:
    """Read "1,2"; the default where nothing is given.

    Raises
    ------
    InputError
        If something else than whole numbers from 1 up is in the list.
    """
    if text is None:
        return list(default)
    try:
        given = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name}: {text!r} is not a list of whole numbers, such as 1,2") from None
    if min(given) < 1:
        raise InputError(f"{name} {min(given)} is too small: give at least 1")
    return list(dict.fromkeys(given))


def _early(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    check_report(path)
    return path


STORE = click.argument("store", type=PATH)
OUT = click.option("--out", required=True, type=PATH, metavar="STORE", help="Store to make.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what stands at the output path.")
JSON = click.option(
    "--json", "json_path", type=PATH, metavar="FILE", callback=_early, help="Write what is printed as JSON, too."
)
MEMORY = click.option(
    "--memory",
    metavar="SIZE",
    help="The most memory that the process may hold, such as 512MiB.  [default: 80% of what is free]",
)
THREADS = number("--threads", "Threads.  [default: all processors that may be used]")
NEURONS = number("--neurons", "Neurons of each layer.", required=True)
LAYERS = number("--layers", "Number of layers.", required=True)
BIAS = number("--bias", "Bias of every neuron.  [default: the Graph Challenge's for N]", float)
CLIP = number("--clip", "Upper bound of the activations.", float, default=32.0)
SEED = number("--seed", "The same seed gives the same result.", default=0)
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Of weights and activations.",
)


def activation(default: str) -> Decorator:
    """Make the option for the activation of layers that were read without one."""
    kinds = "identity, relu, clip:32, leaky_relu:0.1, sigmoid or tanh; or one a layer: relu,tanh,identity."
    return click.option("--activation", metavar="NAME", help=f"{kinds}  [default: {default}]")


def output_activation(default: str) -> Decorator:
    """Make the option for that of the last layer."""
    return click.option("--output-activation", metavar="NAME", help=f"That of the last layer.  [default: {default}]")


def dtype_of(default: str) -> Decorator:
    """Make the option for a dtype that is otherwise what is read."""
    kinds = click.Choice(["float32", "float64"])
    return click.option("--dtype", type=kinds, help=f"Of weights and activations.  [default: {default}]")


def PRUNED(function: Callable[..., Any]) -> Callable[..., Any]:  # noqa: N802 - named as the other options are
    """Add the options of pruning while a network is read."""
    scope = click.option(
        "--prune-scope",
        "scope",
        type=click.Choice(["layer", "global"]),
        default="layer",
        show_default=True,
        help="What has this density: each layer, or all together.",
    )
    density = number(
        "--density", "Keep this share of inputs x outputs, the largest weights: 0.1 is a tenth.  [default: all]", float
    )
    return density(scope(function))


#: What `making.write` takes of an import's options.
OUTPUT = ("out", "overwrite", "json_path", "density", "scope")
