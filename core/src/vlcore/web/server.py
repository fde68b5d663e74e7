"""The page's server, started and stopped."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from vlcore.serve.listen import bind, write_address
from vlcore.serve.served import open_served
from vlcore.web.guard import Guard
from vlcore.web.page import Page
from vlcore.web.settings import LOCAL, WebConfig, check_auth, find_models
from vlcore.web.talk import Models, Talk

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: What an upload's request has around the picture's bytes.
FORM_BYTES = 64 * 1024
#: Seconds that open connections have when the server is told to stop.
LAST_SECONDS = 3
#: Seconds that a page which has lost its connection is kept for, with its talk. Its answer goes on as long: the model
#: is not free for others, when the page has been closed.
RECONNECT_SECONDS = 5.0


def serve(config: WebConfig, ready: Callable[[str, tuple[str, ...]], None]) -> None:
    """Serves the page until SIGTERM or SIGINT.

    Args:
        config: the settings.
        ready: called with the address and the names of the models once the page can be opened.

    Raises:
        UsageError: for an address that cannot be had.
        ModelNotFound, CheckpointError: as `open_model`.
    """
    auth = config.auth or os.environ.get("VLCORE_WEB_AUTH", "")
    check_auth(auth)
    with bind(config.host, config.port) as listener:
        models = Models(open_served(find_models(config)))
        if not auth and config.host not in LOCAL:
            warnings.warn(f"everyone who reaches {config.host} may use the model: no password is set; give --auth",
                          stacklevel=2)
        address = write_address(listener)
        Server(make_app(config, models, auth), lambda: ready(address, tuple(models.served))).run([listener])


def make_app(config: WebConfig, models: Models, auth: str = "") -> ASGIApp:
    """The application: a page with a talk of its own for everyone who opens it."""

    def root() -> None:
        Page(Talk(models, config.system, config.max_length), config).build()

    app = FastAPI(openapi_url=None)
    ui.run_with(app, root=root, title="vlcore", favicon="💬", dark=None, show_welcome_message=False,
                reconnect_timeout=RECONNECT_SECONDS, tailwind=False)
    hosts = ("127.0.0.1", "localhost", "[::1]") if config.host in LOCAL else ()
    return Guard(app, auth, config.max_image_bytes + FORM_BYTES, hosts)


class Server(uvicorn.Server):
    """uvicorn's server, which tells that it is ready."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(
            app, access_log=False, log_level="warning", timeout_graceful_shutdown=LAST_SECONDS, server_header=False,
        ))
        self.ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, which is no fault; the second does not wait for open connections."""
        self.force_exit, self.should_exit = self.should_exit, True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, and tells that it is ready."""
        await super().startup(sockets)
        self.ready()
