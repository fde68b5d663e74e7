"""The server as a whole: model, engine and application put together, started and stopped."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import Any

import uvicorn

from vlcore.errors import UsageError, VlcoreError, first_line
from vlcore.fetch import FetchLimits
from vlcore.serve.app import State, make_app
from vlcore.serve.desk import Desk
from vlcore.serve.door import Door
from vlcore.serve.engine import Engine, make_switch
from vlcore.serve.listen import bind, write_address
from vlcore.serve.metrics import Meter
from vlcore.serve.pictures import PictureLimits, PictureReader
from vlcore.serve.served import open_served
from vlcore.serve.settings import ServeConfig
from vlcore.serve.shelf import Shelf

#: Pictures that are decoded at the same time.
DECODERS = 4
#: Bytes of a request's headers.
HEADER_BYTES = 64 * 1024
#: Seconds for the last answers to leave when their time is up.
LAST_SECONDS = 5


def serve(config: ServeConfig, ready: Callable[[str, tuple[str, ...]], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: what and where.
        ready: told the address and the names of the models once requests are taken.

    Raises:
        UsageError: for an address or folder that cannot be used.
        VlcoreError: when the model cannot be loaded, or its device fails for good.
    """
    folders = resolve_folders(config.allowed_media_dir)
    key = config.api_key or os.environ.get("VLCORE_API_KEY", "")
    with bind(config.host, config.port) as listener:
        state = build_state(config, folders, key)
        if not key and config.host not in ("127.0.0.1", "::1", "localhost"):
            warnings.warn(f"everyone who reaches {config.host} may use the model: no key is set; set VLCORE_API_KEY",
                          stacklevel=2)
        address = write_address(listener)
        state.desk.engine.start()
        server = Server(state, config.grace, lambda: ready(address, tuple(state.desk.served)))
        try:
            server.run([listener])
        finally:
            state.desk.engine.close()
            state.desk.pool.shutdown(cancel_futures=True)
    failure = state.desk.engine.failure
    if failure is not None:
        raise VlcoreError("the server", f"its engine has failed ({first_line(failure)})", "start it again") from failure


def build_state(config: ServeConfig, folders: tuple[Path, ...] = (), key: str = "") -> State:
    """Loads the model and puts everything around it; nothing runs yet."""
    served = open_served(config)
    model = next(iter(served.values())).model
    usable = {name: each.adapter for name, each in served.items() if each.adapter}
    pool = ThreadPoolExecutor(DECODERS, "decode")
    fetch = FetchLimits(config.max_image_bytes, config.media_timeout, private=config.allow_private_media)
    pictures = PictureReader(PictureLimits(config.max_images, config.max_pixels, fetch, folders), pool)
    rows: list[Callable[[int], None]] = []
    shelf = Shelf(config.prefix_cache_mb * 10**6)
    engine = Engine(model, config.max_batch_size, config.max_prefill, shelf, make_switch(model.module, usable),
                    lambda count: rows[0](count))
    desk = Desk(served, engine, pictures, pool, config.max_length or find_length(model.module), Lock())
    meter = Meter(lambda: engine.running, lambda: engine.waiting)
    rows.append(meter.rows.observe)
    limit = config.max_batch_size + config.max_queue
    return State(desk, meter, key, config.max_body_bytes, limit, created=int(time.time()))


def find_length(module: Any) -> int:
    """The longest sequence that a model's configuration says; 0 when it says none."""
    return int(getattr(module.config.get_text_config(), "max_position_embeddings", 0) or 0)


def resolve_folders(given: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders that pictures may be read from, links followed.

    Raises:
        UsageError: when one is not there.
    """
    for name in given:
        if not Path(name).expanduser().is_dir():
            raise UsageError(f"allowed_media_dir {name}", "there is no such folder", "give a folder with pictures")
    return tuple(Path(name).expanduser().resolve() for name in given)


class Server(uvicorn.Server):
    """uvicorn's server, which on a signal lets running answers end while new requests get 503.

    Args:
        state: what requests share.
        grace: seconds that running answers have.
        ready: called once requests are taken.
    """

    def __init__(self, state: State, grace: float, ready: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(
            make_app(state), http="h11", ws="none", lifespan="off", access_log=False, log_level="warning",
            h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=LAST_SECONDS, server_header=False,
        ))
        self.state, self.grace, self.ready, self.door = state, grace, ready, Door()
        self.deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, and tells that it is ready."""
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second does not wait for it."""
        if self.state.draining:
            self.deadline = 0.0
        else:
            self.state.draining = True
            self.deadline = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn, each tenth of a second; ends after the last answer, when time is up, or when the engine fails."""
        self.door.sweep(list(self.server_state.connections), time.monotonic())
        failed = not self.state.desk.engine.alive
        if failed or (self.state.draining and (not self.state.requests or time.monotonic() >= self.deadline)):
            self.state.desk.engine.close()
            self.should_exit = True
        return await super().on_tick(counter)
