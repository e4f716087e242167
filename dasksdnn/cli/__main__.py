"""`python -m dasksdnn.cli`."""

from dasksdnn.cli.main import main

main()
