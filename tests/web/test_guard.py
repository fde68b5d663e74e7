"""What comes before the page: hosts, origins, the password, and the size of requests."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from vlcore.web.guard import COOKIE, Guard

httpx = pytest.importorskip("httpx2")
AUTH = "someone:pässword"


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def call(guard: Guard, method: str = "GET", **request: Any) -> Any:
    transport = httpx.ASGITransport(app=guard)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
        return await client.request(method, "/", **request)


def ask(guard: Guard, method: str = "GET", **request: Any) -> Any:
    import asyncio

    return asyncio.run(call(guard, method, **request))


@pytest.fixture
def guard() -> Guard:
    return Guard(Starlette(routes=[Route("/", echo, methods=["GET", "POST"])]), AUTH, 10, ("127.0.0.1", "localhost"))


KNOWN = tuple(AUTH.encode().split(b":"))


def test_password_lets_in_and_its_cookie_does_so_from_then_on(guard):
    assert ask(guard).status_code == 401
    assert ask(guard, auth=(b"someone", b"other")).status_code == 401
    assert ask(guard, headers={"authorization": "Basic no base64!"}).status_code == 401
    answer = ask(guard, auth=KNOWN)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    assert ask(guard, headers={"cookie": f"{COOKIE}={token}"}).status_code == 200
    assert ask(guard, headers={"cookie": f"{COOKIE}=guessed"}).status_code == 401


def test_name_that_was_pointed_here_is_refused(guard):
    assert ask(guard, auth=KNOWN, headers={"host": "rebound.example:7860"}).status_code == 400
    assert ask(guard, auth=KNOWN, headers={"host": "localhost:7860"}).status_code == 200


def test_other_page_is_refused(guard):
    assert ask(guard, auth=KNOWN, headers={"origin": "http://other.example"}).status_code == 403
    assert ask(guard, auth=KNOWN, headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_body_above_the_limit_or_of_no_length_is_refused(guard):
    async def pieces() -> Any:
        yield b"12345"

    assert ask(guard, "POST", auth=KNOWN, content=b"1234567890").text == "10"
    assert ask(guard, "POST", auth=KNOWN, content=b"12345678901").status_code == 413
    assert ask(guard, "POST", auth=KNOWN, content=pieces()).status_code == 411


def test_browser_may_fetch_from_this_server_alone(guard):
    policy = ask(guard, auth=KNOWN).headers["content-security-policy"]
    assert "default-src 'self' data: blob:" in policy and "http" not in policy


def test_socket_without_the_password_is_closed(guard):
    import asyncio

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"127.0.0.1:7860")]}
    asyncio.run(guard(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
