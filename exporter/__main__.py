"""`python -m exporter` is the `graphwright` command."""

from exporter.cli import main

main(prog_name="graphwright")
