"""`vlcore export`: merge an adapter into its model."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand
from vlcore.errors import UsageError


@click.command(cls=ConfigCommand)
@click.option("--ckpt_dir", type=click.Path(path_type=Path), required=True, help="Folder with an adapter.")
@click.option("--merge_lora", type=bool, default=False, help="Merge the adapter into its base model.")
@click.option("--output_dir", default="", show_default="CKPT_DIR-merged", help="Folder to write.")
@click.option("--overwrite", type=bool, default=False, help="Replace the folder when it is there.")
@click.option("--model", "--model_id_or_path", default="",
              help="Base model, when it is not where it was.")
def command(ckpt_dir: Path, merge_lora: bool, output_dir: str, overwrite: bool, model: str) -> None:
    """Merge the adapter of a training into its model, and write that in the release's layout."""
    from vlcore.merging import merge

    if not merge_lora:
        raise UsageError("export without merge_lora", "nothing else can be exported", "add --merge_lora true")
    click.echo(f"merged: {merge(ckpt_dir, output_dir, overwrite=overwrite, model=model)}")
