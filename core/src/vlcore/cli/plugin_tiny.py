"""`vlcore plugin tiny`: a checkpoint of a plugin's family that nobody has to download."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand


@click.command(cls=ConfigCommand)
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it is written. [default: tiny-FAMILY]")
@click.option("--family", default="", help="The family, for plugins with several. [default: the first]")
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights.")
def command(name: str, folder: Path | None, family: str, seed: int) -> None:
    """Write a tiny random checkpoint of a family, to try commands with.

    NAME is a plugin, its distribution or one family. The checkpoint loads like a released one and knows nothing.
    """
    from vlcore.scaffold import write_tiny
    from vlcore.testing.kit import find_families

    plugin, chosen = find_families(name, family)[0]
    target = folder or Path(f"tiny-{chosen.name}")
    write_tiny(plugin, chosen, target, seed)
    click.echo(f"written to {target}; vlcore infer --model {target}")
