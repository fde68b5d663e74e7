"""`vlcore sft`: fine-tune a model."""

from __future__ import annotations

import logging
import sys

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.config import SftConfig


@click.command(cls=ConfigCommand)
@config_options(SftConfig)
def command(config: SftConfig) -> None:
    """Fine-tune a model: LoRA (default), QLoRA (--quantization_bit 4 or 8) or full (--sft_type full).

    Checkpoints, log, figures and the loss curve are written to OUTPUT_DIR/MODEL/vN-DATE.
    """
    from vlcore.train.launch import hush_others, needs_processes, start_processes

    if needs_processes(config):
        from vlcore.train.divide import check_division

        check_division(config)
        code, text = start_processes(sys.argv[1:], config.device_map)
        if text:
            click.echo(f"vlcore: error: {text}", err=True)
        sys.exit(code)
    is_first = hush_others()
    from vlcore.train.sft import sft

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    result = sft(config)
    if is_first:
        click.echo(f"checkpoint: {result.checkpoint}")
        if best := result.best:
            click.echo(f"best: {result.folder / f'checkpoint-{best.step}'} ({best.metric} {best.value:.4g})")
