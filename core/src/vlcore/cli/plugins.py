"""`vlcore plugins`: what is installed, and what is wrong with it."""

from __future__ import annotations

import json

import click

from vlcore.cli.options import ConfigCommand
from vlcore.cli.table import write_table


@click.command(cls=ConfigCommand)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(as_json: bool) -> None:
    """List the installed plugins: distribution, version, origin, hooks, families, failures."""
    from vlcore.plugins import get_registry

    rows: list[dict[str, str | list[str]]] = [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "origin": plugin.origin,
            "families": [family.name for family in plugin.families],
            "hooks": list(plugin.hooks),
            "failure": plugin.failure,
        }
        for plugin in get_registry().plugins
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(write_table(list(rows[0]), [{k: show_cell(v) for k, v in row.items()} for row in rows]))


def show_cell(value: str | list[str]) -> str:
    """A value of the table; lists with commas, nothing as a dash."""
    return (value if isinstance(value, str) else ", ".join(value)) or "-"
