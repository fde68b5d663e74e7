"""`vlcore models`: what the installed plugins know."""

from __future__ import annotations

import json

import click

from vlcore.cli.options import ConfigCommand
from vlcore.cli.table import write_table

#: What is said about models that no plugin registers.
OTHERS = "Other models that transformers has for pictures and text work by folder or hub id, without a plugin."


@click.command(cls=ConfigCommand)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(as_json: bool) -> None:
    """List the models that the installed plugins know: name, hub ids, family, plugin.

    Others that transformers has for pictures and text work by folder or hub id, without a plugin.
    """
    from vlcore.plugins import get_registry

    rows = [
        {
            "name": model.name,
            "huggingface": model.huggingface,
            "modelscope": model.modelscope or model.huggingface,
            "family": family.name,
            "plugin": plugin.distribution,
            "verified": model.verified,
        }
        for plugin in get_registry().plugins
        for family in plugin.families
        for model in family.models
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        click.echo(write_table(["name", "huggingface", "modelscope", "family", "plugin"], rows))
        click.echo(OTHERS)
    else:
        click.echo("no models: install the plugin of a family, for instance: pip install vlcore-internvl")
        click.echo(OTHERS)
