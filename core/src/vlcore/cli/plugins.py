"""`vlcore plugins`: what is installed, and what is wrong with it."""

from __future__ import annotations

import json

import click

from vlcore.cli.models import OTHERS
from vlcore.cli.options import ConfigCommand
from vlcore.cli.table import write_table


@click.command(cls=ConfigCommand)
@click.option("--check", is_flag=True, help="Say what is wrong with what is installed, a line each with its remedy.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(check: bool, as_json: bool) -> None:
    """List the installed plugins: distribution, version, origin, hooks, families, failures.

    With --check the exit code is 0 when all is well, 1 otherwise; notes are not faults.
    """
    if check:
        run_check(as_json)
        return
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
        click.echo(OTHERS)


def show_cell(value: str | list[str]) -> str:
    """A value of the table; lists with commas, nothing as a dash."""
    return (value if isinstance(value, str) else ", ".join(value)) or "-"


def run_check(as_json: bool) -> None:
    """Prints a line a finding, then what was looked at."""
    import os
    from dataclasses import asdict

    from importlib_metadata import entry_points, version

    from vlcore.clashes import GROUP, LIMIT
    from vlcore.hookspecs import VERSION
    from vlcore.installed import inspect_plugins

    points = list(entry_points(group=GROUP))
    findings = inspect_plugins(points, os.environ.get(LIMIT))
    faults = sum(finding.kind == "fault" for finding in findings)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(finding.describe())
        said = f"{faults} fault{'s' * (faults > 1)}" if faults else "nothing is wrong"
        click.echo(f"vlcore {version('vlcore')}, hooks {VERSION}, {len(points)} plugins: {said}")
    if faults:
        raise click.exceptions.Exit(1)
