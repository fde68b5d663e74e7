"""`vlcore data list`: the data sets that have a name."""

from __future__ import annotations

import json

import click

from vlcore.cli.options import ConfigCommand
from vlcore.cli.table import write_table


@click.command(cls=ConfigCommand)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(as_json: bool) -> None:
    """List the data sets that --dataset knows by name: what they hold, hub ids, plugin."""
    from vlcore.plugins import get_registry

    rows = [
        {
            "name": record.name,
            "holds": record.help,
            "huggingface": record.huggingface,
            "modelscope": record.modelscope or record.huggingface,
            "subset": record.subset,
            "split": record.split,
            "plugin": plugin.distribution,
        }
        for plugin in get_registry().plugins
        for record in plugin.datasets
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        click.echo(write_table(["name", "holds", "huggingface", "modelscope", "split", "plugin"], rows))
