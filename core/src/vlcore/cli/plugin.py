"""`vlcore plugin`: writing a plugin, and knowing that it is right."""

from __future__ import annotations

import click

from vlcore.cli import LazyGroup

#: Command -> module below `vlcore.cli`, and the sentence `vlcore plugin --help` shows.
COMMANDS = {
    "new": ("plugin_new", "Write a plugin that works and passes its check, to begin with."),
    "tiny": ("plugin_tiny", "Write a tiny random checkpoint of a plugin's family, to try commands with."),
    "check": ("plugin_check", "Hold a plugin against what every family must do, on a tiny checkpoint."),
}


@click.group(cls=LazyGroup, table=COMMANDS, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Write a plugin, and know that it is right."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
