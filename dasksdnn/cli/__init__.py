"""The `dasksdnn` command: each subcommand is a thin view of the Python API."""

try:
    from dasksdnn.cli.main import main
except KeyboardInterrupt:  # before the command has begun
    raise SystemExit(130) from None

__all__ = ["main"]
