"""`vlcore parity FOLDER...`: a model against what its release computes."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand


@click.command(cls=ConfigCommand)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a case.")
def command(folders: tuple[Path, ...], as_json: bool) -> None:
    """Run the recorded cases below FOLDERS through the public API and compare every recorded value.

    A row a case shows the worst difference of each value in units of its tolerance. Exit code 1 when a case
    fails.
    """
    import dataclasses
    import json

    from vlcore.parity import find_cases, run_cases

    outcomes = []
    for outcome in run_cases(find_cases(folders)):
        outcomes.append(outcome)
        click.echo(json.dumps(dataclasses.asdict(outcome)) if as_json else outcome.describe())
    failed = sum(not outcome.passed for outcome in outcomes)
    if not as_json:
        click.echo(f"{len(outcomes) - failed} passed, {failed} failed")
    if failed:
        raise click.exceptions.Exit(1)
