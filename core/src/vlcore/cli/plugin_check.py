"""`vlcore plugin check`: whether a plugin does what every family must."""

from __future__ import annotations

from pathlib import Path

import click

from vlcore.cli.options import ConfigCommand


@click.command(cls=ConfigCommand)
@click.argument("name")
@click.option("--family", default="", help="Check only the family of this name.")
@click.option("--model", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Try this checkpoint instead of a tiny one: another layout of the family, or a released model.")
@click.option("--parity", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER...",
              help="Folders with recorded parity data (vlcore parity); only cases of this plugin's models are run.")
@click.option("--only", multiple=True, metavar="CHECK...", help="Run only these checks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a check.")
def command(
    name: str, family: str, model: Path | None, parity: tuple[Path, ...], only: tuple[str, ...], as_json: bool
) -> None:
    """Hold a plugin to everything that a model family must do, on a tiny random checkpoint of each of its families.

    NAME is a plugin, its distribution, one family, or a model type of transformers. Nothing is downloaded, no GPU is
    used. A line a check: ok, FAIL with what must change, or - with why it does not apply. Exit code 1 when one fails.
    """
    import dataclasses
    import json
    from tempfile import TemporaryDirectory

    from vlcore.testing.kit import check_plugin

    outcomes = []
    with TemporaryDirectory(prefix="vlcore-check-") as work:
        for outcome in check_plugin(name, Path(work), family=family, model=model, parity=parity, only=only):
            outcomes.append(outcome)
            click.echo(json.dumps(dataclasses.asdict(outcome)) if as_json else outcome.describe())
    failed = sum(outcome.failed for outcome in outcomes)
    if not as_json:
        passed = sum(outcome.state == "passed" for outcome in outcomes)
        click.echo(f"{passed} passed, {failed} failed, {len(outcomes) - passed - failed} not applicable")
    if failed:
        raise click.exceptions.Exit(1)
