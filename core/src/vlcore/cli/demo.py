"""`vlcore demo`: the main job on real images, offline, in about two minutes."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand


@click.command(cls=ConfigCommand)
@click.option(
    "--folder", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where everything is written."
)
@click.option("--family", default="internvl", show_default=True, help="Family of the tiny model; its plugin is needed.")
@click.option("--seed", default=7, show_default=True, help="Seed of weights, order and split.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier demo left in the folder.")
def command(folder: Path, family: str, seed: int, overwrite: bool) -> None:
    """Train a tiny model to read handwritten digits, adapt it with LoRA, merge, and compare the answers.

    The images are the 1,797 real digits that ship inside scikit-learn (extra: demo). Each step prints the
    command that does the same.
    """
    import torch

    from vlcore.demo import Demo

    torch.set_num_threads(1)  # the model is so small that threads would mostly wait for each other
    Demo(folder, family, seed, click.echo).run(overwrite)
