"""`vlcore data`: look at data before it is trained on."""

from __future__ import annotations

import io
import sys

import click

from vlcore.cli import LazyGroup

#: Command -> module below `vlcore.cli`, and the sentence `vlcore data --help` shows.
COMMANDS = {
    "check": ("data_check", "Find every fault of a data set, and what its rows will take."),
    "list": ("data_list", "List the data sets that have a name."),
    "show": ("data_show", "Print rows as a model sees them; draw their boxes."),
}


@click.group(cls=LazyGroup, table=COMMANDS, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Look at data before it is trained on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # rows hold signs that a terminal may not have
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
