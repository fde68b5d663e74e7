"""`vlcore serve`: a model over HTTP in OpenAI's form."""

from __future__ import annotations

import logging

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.errors import ExtraMissing
from vlcore.serve.settings import ServeConfig

#: What the extra brings.
PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "httpx2", "httpcore2")


@click.command(cls=ConfigCommand)
@config_options(ServeConfig)
def command(config: ServeConfig) -> None:
    """Serve a model and its adapters over HTTP, as OpenAI's chat completions.

    Listens on this machine alone, reads no local files and fetches from public addresses only, unless told otherwise.
    Ends on Ctrl-C or SIGTERM, when the running answers have ended.
    """
    logging.basicConfig(format="vlcore: %(levelname)s: %(message)s", level=logging.WARNING)
    try:
        from vlcore.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise ExtraMissing("vlcore serve", str(error.name), "serve") from error
    serve(config, lambda address, names: click.echo(f"serving {', '.join(names)} at {address}/v1"))
