"""Fetching what strangers name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from vlcore.errors import MediaError

fetch_module = pytest.importorskip("vlcore.fetch")
fetch, FetchLimits, is_public = fetch_module.fetch, fetch_module.FetchLimits, fetch_module.is_public

BACKEND = fetch_module.httpcore2.AnyIOBackend
PUBLIC = "93.184.216.34"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254",
    "192.0.0.8", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::", "no address",
])
def test_an_address_that_is_not_public_is_none(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111",
                                     "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888"])
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


@contextlib.asynccontextmanager
async def running(answer: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """A server on this machine that the public address leads to; the addresses that were connected to."""
    connected: list[str] = []
    tasks: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        class Led(BACKEND):  # type: ignore[misc, valid-type]
            async def connect_tcp(self, host: str, _: int, *rest: Any) -> Any:
                connected.append(host)
                return await super().connect_tcp("127.0.0.1", port, *rest)

        monkeypatch.setattr(fetch_module.httpcore2, "AnyIOBackend", Led)
        yield connected
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks) if tasks else None


async def resolve(host: str, port: int) -> list[str]:
    return {"public.test": [PUBLIC], "inside.test": ["10.0.0.1"], "both.test": [PUBLIC, "127.0.0.1"]}.get(host, [host])


def run(answer: Serve, url: str, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> tuple[bytes, list[str]]:
    async def work() -> tuple[bytes, list[str]]:
        async with running(answer, monkeypatch) as connected:
            return await fetch(url, FetchLimits(**{"size": 1000, "total": 5.0, **limits}), resolve), connected

    return asyncio.run(work())


def say(head: str, body: bytes = b"") -> Serve:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


def test_what_lies_behind_a_public_name_is_fetched_from_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(say("200 OK", b"picture"), "http://public.test/a.png", monkeypatch) == (b"picture", [PUBLIC])


@pytest.mark.parametrize("host", ["inside.test", "both.test", "127.0.0.1"])
def test_a_name_with_a_private_address_is_refused_unless_allowed(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=f"host {host}: its address is not one of the public internet"):
        run(say("200 OK", b"picture"), f"http://{host}/", monkeypatch)
    assert run(say("200 OK", b"picture"), f"http://{host}/", monkeypatch, private=True)[0] == b"picture"


@pytest.mark.parametrize("target", [
    "http://inside.test/", "http://127.0.0.1:22/", "//[::1]/", "file:///etc/passwd", "ftp://public.test/",
])
def test_a_redirect_is_checked_as_the_first_address(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="not one of the public internet|no plain http or https URL"):
        run(say(f"302 Found\r\nLocation: {target}"), "http://public.test/", monkeypatch)


def test_a_redirect_to_a_public_address_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n\r\n")
        await say("200 OK" if b"GET /b" in line else "301 Moved\r\nLocation: /b", b"x")(_Replay(), writer)

    assert run(answer, "http://public.test/a", monkeypatch)[0] == b"x"


class _Replay:
    """A reader whose request was read already."""

    async def readuntil(self, mark: bytes) -> bytes:
        return mark


def test_redirects_in_a_circle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="4 redirects: they are too many"):
        run(say("302 Found\r\nLocation: /again"), "http://public.test/", monkeypatch)


def test_a_name_is_resolved_again_at_every_hop_and_never_between_check_and_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    async def changing(host: str, port: int) -> list[str]:
        seen.append(host)
        return [PUBLIC] if len(seen) == 1 else ["127.0.0.1"]

    async def work() -> None:
        async with running(say("302 Found\r\nLocation: /b"), monkeypatch) as connected:
            with pytest.raises(MediaError, match="not one of the public internet"):
                await fetch("http://changing.test/a", FetchLimits(1000), changing)
            assert (seen, connected) == (["changing.test"] * 2, [PUBLIC])

    asyncio.run(work())


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, never nothing for long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def boast(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"y" * 10000 + b"\r\n")
        await writer.drain()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body without end and without a length."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"z" * 4096 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(("answer", "why"), [
    (drip, "it took longer than 0.3 seconds"), (stall, "it took longer than 0.3 seconds"),
    (boast, "it cannot be fetched"), (flood, "more than 1000 bytes"),
    (say("404 Not Found"), "status 404"), (say("200 OK", b"x" * 1001), "more than 1000 bytes"),
    (say("nonsense"), "it cannot be fetched"),
])
def test_a_server_that_means_no_good_is_cut_off(answer: Serve, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=why) as caught:
        run(answer, "http://public.test/a", monkeypatch, total=0.3 if "longer" in why else 20.0)
    assert str(caught.value).startswith("URL http://public.test/a: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "http://a:b@public.test/", "http://[::1", "http://a b/", "http://\u0000/",
                                 "http://public.test:99999/", "http://" + "a" * 300 + ".test/"])
def test_a_url_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError):
        run(say("200 OK"), url, monkeypatch)


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(MediaError, match="it cannot be fetched"):
        asyncio.run(fetch("http://no-such-host.invalid/", FetchLimits(1000)))
