"""`vlcore plugin new`: a project to begin a plugin with."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand


@click.command(cls=ConfigCommand)
@click.argument("name")
@click.option("--base", required=True, metavar="TYPE", help="A model type of transformers: model_type in config.json.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it is written. [default: vlcore-NAME]")
def command(name: str, base: str, folder: Path | None) -> None:
    """Write a plugin NAME for checkpoints that transformers has natively: a project to install, and its test."""
    from vlcore.native.kinds import KINDS
    from vlcore.plugins import get_registry
    from vlcore.scaffold import plan_project

    scaffold = plan_project(name, base, get_registry())
    target = folder or Path(scaffold.distribution)
    scaffold.write(target)
    click.echo(f"written to {target}: {', '.join(scaffold.list_files())}")
    if base not in KINDS:
        click.echo(f"of {base} no tiny checkpoint is known: fill the hook write_tiny, which the check needs")
    click.echo(f"next: pip install -e {target} && vlcore plugin check {name}")
