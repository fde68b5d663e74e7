"""`vlcore parity`: recording what a release computes, and holding a model against it."""

from __future__ import annotations

import click

from vlcore.cli import LazyGroup

#: Command -> module below `vlcore.cli`, and the sentence `vlcore parity --help` shows.
COMMANDS = {
    "run": ("parity_run", "Hold a model against recorded data; `vlcore parity FOLDER...` is the same."),
    "record": ("parity_record", "Record what a reference computes."),
}


class ParityGroup(LazyGroup):
    """The group whose command `run` goes without saying."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with `run` before folders and its options."""
        named = args and (args[0] in self.table or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if named or not args else ["run", *args])


@click.group(cls=ParityGroup, table=COMMANDS, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Record what a release computes, and hold a model against it.

    `vlcore parity FOLDER...` runs the recorded cases below the folders.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
