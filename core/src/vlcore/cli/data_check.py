"""`vlcore data check`: every fault of a data set, and what its rows will take."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.doctor.settings import LookConfig, hide_others
from vlcore.errors import DataError, UsageError


@click.command(cls=ConfigCommand)
@click.argument("sources", nargs=-1, metavar="FILE...")
@config_options(LookConfig, **hide_others())
@click.option("--decode", type=bool, is_flag=False, default=False,
              help="Decode every picture and the frames that are taken of videos, not only headers. [default: false]")
@click.option("--all", "everything", is_flag=True, help="List every fault, not only the first of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--fix", default="", help="Write the sound rows to this .jsonl file, the others to NAME.faults.jsonl.")
@click.option("--overwrite", is_flag=True, help="Replace the files of --fix when they are there.")
def command(
    config: LookConfig, sources: tuple[str, ...], decode: bool, everything: bool, as_json: bool, fix: str,
    overwrite: bool
) -> None:
    """Check data sets: files, folders, registered names or hub ids, each with #N to sample N rows.

    Every row is read and the header of every medium; with --model, tokens are counted as a training counts them.
    The model's folder needs no weights. Exit code 5 when a row cannot be trained on.
    """
    from vlcore.doctor.check import check_rows
    from vlcore.doctor.fix import choose_target, write_fixed
    from vlcore.doctor.report import write_report
    from vlcore.doctor.settings import open_frontend, open_sources

    if fix and not (config.model or config.model_type):
        raise UsageError(f"fix {fix}", "where media without tags belong depends on the model", "give --model as well")
    config = config.add_sources(sources)
    frontend = open_frontend(config)
    rows = open_sources(config, frontend)
    target = choose_target(Path(fix), rows, overwrite) if fix else None
    report = check_rows(rows, frontend, config, decode)
    if as_json:
        click.echo(json.dumps(report.write(), indent=2))
    else:
        for line in write_report(report, everything=everything, bars=sys.stdout.isatty()):
            click.echo(line)
    if target:
        write_fixed(rows, report, target)
        click.echo(f"sound rows: {target.sound}" + (f", others: {target.faults}" if report.faults else ""), err=as_json)
    elif report.faults and frontend and not as_json:
        click.echo("to write the sound rows to a file of their own: --fix NAME.jsonl")
    if report.faults:
        raise click.exceptions.Exit(DataError.exit_code)
