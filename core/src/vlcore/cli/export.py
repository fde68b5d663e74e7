"""`vlcore export`: merge an adapter, write another layout, quantize."""

from __future__ import annotations

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.config import ExportConfig


@click.command(cls=ConfigCommand)
@config_options(ExportConfig)
def command(config: ExportConfig) -> None:
    """Write a trained model: its adapter merged (--merge_lora true), in transformers' layout, or quantized.

    What was written is loaded again and compared with the model it was made of; a model that differs is kept as
    OUTPUT_DIR.unproven, and the command fails.
    """
    from vlcore.export.recipe import export

    result = export(config)
    if result.proof:
        click.echo(f"proof: {result.proof}")
    click.echo(f"{'merged' if config.merge_lora else 'exported'}: {result.folder}")
