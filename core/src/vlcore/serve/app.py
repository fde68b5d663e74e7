"""The HTTP side: routes, keys, limits of bodies, errors in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from vlcore.errors import show
from vlcore.serve.desk import Answer, Desk, Ticket
from vlcore.serve.engine import stopped
from vlcore.serve.faults import RequestError, find_status, write_error
from vlcore.serve.metrics import Meter
from vlcore.serve.protocol import Writer, read_request, write_usage

LOG = logging.getLogger("vlcore.serve")
#: Seconds after which a client that was sent away may come again.
RETRY = "1"
#: Seconds in which a body must have come.
BODY_SECONDS = 60.0
#: Names the fields of a request that had no effect.
NOTES = "x-vlcore-ignored"


@dataclass
class State:
    """What requests share.

    Attributes:
        desk: what answers.
        meter: what counts.
        api_key: what requests must bring; empty for nothing.
        max_body: largest body in bytes.
        max_requests: requests in work, running and waiting.
        requests: those there are.
        draining: whether new ones are refused, because the server stops.
        created: when the server began, in seconds since 1970.
    """

    desk: Desk
    meter: Meter
    api_key: str
    max_body: int
    max_requests: int
    requests: int = 0
    draining: bool = False
    created: int = 0

    def enter(self) -> None:
        """Counts a request in.

        Raises:
            RequestError: 503 when the server stops, 429 when there are too many.
        """
        if self.draining or not self.desk.engine.alive:
            raise stopped()
        if self.requests >= self.max_requests:
            raise RequestError("the request", f"{self.requests} others run or wait, and no more may",
                               f"send it again after {RETRY} second", status=429, code="queue_full")
        self.requests += 1

    def leave(self) -> None:
        """Counts a request out."""
        self.requests -= 1


class Stream(StreamingResponse):
    """A stream that is ended for good however it ends, read to its end or not begun."""

    def __init__(self, content: AsyncIterator[str], end: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


def make_app(state: State) -> FastAPI:
    """The application."""
    app = FastAPI(title="vlcore", docs_url=None, redoc_url=None, openapi_url=None)
    routes = Routes(state)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"])
    app.add_api_route("/v1/models", routes.list_models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", routes.show_model, methods=["GET"])
    app.add_api_route("/health", routes.health, methods=["GET"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])

    async def refuse(request: HttpRequest, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            where = f"{request.method} {request.url.path[:100]}"
            error = RequestError(where, str(error.detail).lower(), "see /v1/models, /health, /metrics",
                                 status=error.status_code)
        return answer_error(error)

    app.add_exception_handler(RequestError, refuse)
    app.add_exception_handler(HTTPException, refuse)
    return app


def answer_error(error: Exception) -> Response:
    """The response that tells an error; one of the server's own goes to the log as well."""
    status = find_status(error)
    if status == 500:
        LOG.error("a request has failed", exc_info=error)
    headers = {"Retry-After": RETRY} if status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(write_error(error), status, headers)


class Routes:
    """What is answered at each address."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def health(self) -> Response:
        """200 while requests are taken, 503 when not."""
        well = self.state.desk.engine.alive and not self.state.draining
        return JSONResponse({"status": "ok" if well else "stopping"}, 200 if well else 503)

    async def metrics(self, request: HttpRequest) -> Response:
        """What is counted, in Prometheus' form."""
        self._check_key(request)
        return Response(self.state.meter.write(), media_type="text/plain; version=0.0.4")

    async def list_models(self, request: HttpRequest) -> Response:
        """The names that requests choose by."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._describe(name) for name in self.state.desk.served]})

    async def show_model(self, request: HttpRequest, name: str) -> Response:
        """One of them."""
        self._check_key(request)
        if name not in self.state.desk.served:
            raise RequestError(f"model {show(name)}", "it is not served here", "GET /v1/models lists them", status=404,
                               param="model", code="model_not_found")
        return JSONResponse(self._describe(name))

    async def chat(self, http: HttpRequest) -> Response:
        """An answer, whole or streamed."""
        begun = time.monotonic()
        self._check_key(http)
        self.state.enter()
        ticket: Ticket | None = None
        response: Response | None = None
        model = "unknown"
        try:
            request = read_request(await read_body(http, self.state.max_body))
            model = request.model if request.model in self.state.desk.served else model
            ticket = await self.state.desk.take(request)
            end = self._make_end(ticket)
            writer = Writer(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), request.model, request.include_usage)
            headers = {NOTES: ", ".join(ticket.notes)} if ticket.notes else {}
            if request.stream:
                pieces = self._stream(ticket, writer, begun)
                response = Stream(pieces, end, {**headers, "Cache-Control": "no-cache"})
            else:
                response = await self._answer(http, ticket, writer, begun, headers)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            response = answer_error(error)
        finally:
            if not isinstance(response, Stream):
                self.state.leave()
                if ticket:
                    self.state.desk.engine.leave(ticket.job)
        self.state.meter.requests.labels(model, response.status_code).inc()
        return response

    async def _answer(
        self, http: HttpRequest, ticket: Ticket, writer: Writer, begun: float, headers: dict[str, str]
    ) -> Response:
        """The whole answer, unless the client leaves before it is there."""
        answer, gone = asyncio.ensure_future(ticket.read_answer()), asyncio.ensure_future(wait_gone(http))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect()
            whole = answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
        usage = self._count(whole, begun)
        return JSONResponse(writer.write_answer(whole.text, whole.reason, usage), headers=headers)

    async def _stream(self, ticket: Ticket, writer: Writer, begun: float) -> AsyncIterator[str]:
        """Server-sent events: the role, the pieces, why it ended, the usage when asked for."""
        yield write_event(writer.write_chunk({"role": "assistant", "content": ""}))
        first = True
        try:
            async for piece in ticket.read_pieces():
                if first:
                    self.state.meter.first.observe(time.monotonic() - begun)
                    first = False
                if isinstance(piece, str):
                    yield write_event(writer.write_chunk({"content": piece}))
                    continue
                usage = self._count(piece, begun)
                yield write_event(writer.write_chunk({}, piece.reason))
                if writer.include_usage:
                    yield write_event(writer.write_end(usage))
        except Exception as error:
            if find_status(error) == 500:
                LOG.error("a stream has failed", exc_info=error)
            yield write_event(write_error(error))
        yield "data: [DONE]\n\n"

    def _count(self, answer: Answer, begun: float) -> dict[str, Any]:
        """The usage, counted."""
        tokens = self.state.meter.tokens
        for kind in ("prompt", "image", "completion"):
            tokens.labels(kind).inc(getattr(answer.usage, f"{kind}_tokens"))
        self.state.meter.whole.observe(time.monotonic() - begun)
        return write_usage(answer.usage)

    def _make_end(self, ticket: Ticket) -> Callable[[], None]:
        def end() -> None:
            self.state.leave()
            self.state.desk.engine.leave(ticket.job)

        return end

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.state.created, "owned_by": "vlcore"}

    def _check_key(self, request: HttpRequest) -> None:
        """Raises RequestError (401) unless the request brings the key; takes as long for any wrong one."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given if scheme.lower() == "bearer" else ""
        # Headers come as latin-1, whatever their bytes meant.
        if self.state.api_key and not hmac.compare_digest(given.encode("latin-1"), self.state.api_key.encode()):
            raise RequestError("the key of the request", "it is not the one of this server",
                               "send Authorization: Bearer KEY", status=401, code="invalid_api_key")


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """The body of a request.

    Raises:
        RequestError: 415 for another type than JSON, which web pages could send unasked; 413 above the limit; 408
            when it takes too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(f"content type {kind[:100] or 'missing'}", "bodies are JSON",
                           "send Content-Type: application/json", status=415)
    body = bytearray()
    length = request.headers.get("content-length", "0")
    size = int(length) if length.isdigit() else 0
    try:
        async with asyncio.timeout(BODY_SECONDS), contextlib.aclosing(request.stream()) as pieces:
            async for piece in pieces:
                body += piece
                if max(size, len(body)) > limit:
                    raise RequestError(f"a body of more than {limit} bytes", "it is too large",
                                       "send fewer or smaller pictures, or URLs", status=413)
    except TimeoutError as error:
        raise RequestError("the body", f"it took longer than {BODY_SECONDS:g} seconds", "send it faster",
                           status=408) from error
    return bytes(body)


async def wait_gone(request: HttpRequest) -> None:
    """Ends when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def write_event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
