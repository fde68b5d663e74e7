"""`vlcore web`: a page for talking with a model."""

from __future__ import annotations

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.errors import ExtraMissing
from vlcore.web.settings import WebConfig

#: What the extra brings.
PACKAGES = ("nicegui", "fastapi", "starlette", "uvicorn", "httpx2", "httpcore2")


@click.command(cls=ConfigCommand)
@config_options(WebConfig)
def command(config: WebConfig) -> None:
    """Open a page in the browser for talking with a model and its adapters.

    Listens on this machine alone unless told otherwise, and needs no network. Ends on Ctrl-C or SIGTERM.
    """
    try:
        from vlcore.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise ExtraMissing("vlcore web", str(error.name), "web") from error
    serve(config, lambda address, names: click.echo(f"talk with {', '.join(names)} at {address}"))
