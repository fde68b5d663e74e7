"""`vlcore parity record`: what a reference computes, as parity data."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand
from vlcore.errors import UsageError


@click.command(cls=ConfigCommand)
@click.argument("reference", default="")
@click.option("--cases", type=click.Path(path_type=Path), help="JSON lines: case, messages, and if need be options.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the data; what is recorded there stays.")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=None,
              help="Folder of the checkpoint. It is copied to OUT/checkpoint, and may be left out when it is there.")
@click.option("--extra", multiple=True, help="Names of further tensors the model is fed, such as image_grid_thw.")
@click.option("--script", is_flag=True, help="Print a Python file that records where vlcore is not installed.")
def command(
    reference: str, cases: Path | None, out: Path | None, checkpoint: Path | None, extra: tuple[str, ...], script: bool
) -> None:
    """Record what a REFERENCE computes, for `vlcore parity OUT`.

    REFERENCE is module:callable or file.py:callable. It is given a case (kind, messages with the paths of pictures,
    options, checkpoint) and returns values by the names of the format: prompt, input_ids, labels, loss, generated_ids,
    generated_text, pixel_values, image_features, logits.
    """
    from vlcore import recorder

    if script:
        click.echo(Path(recorder.__file__).read_text(encoding="utf8"), nl=False)
        return
    if not reference or cases is None or out is None:
        raise UsageError("vlcore parity record", "it needs a reference, --cases and --out", "see --help")
    try:
        found = recorder.load_reference(reference)
        names = recorder.record(found, recorder.read_cases(cases), out, checkpoint or "", extra)
        for name in names:
            click.echo(f"recorded {name}")
    except recorder.RecordError as error:
        raise UsageError(error.given, error.why, error.do) from error
    click.echo(f"now: vlcore parity {out}")
