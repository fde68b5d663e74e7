"""Fetching what strangers name: only from public addresses, within limits of bytes, hops and seconds.

A name is resolved once for each hop, every address it has is checked, and the connection goes to one of those, so a
name cannot mean another address a moment later. Proxies of the environment are not used: behind one, nothing could
be checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlcore.errors import ExtraMissing, MediaError, first_line, show

try:
    import httpcore2
    import httpx2
except ImportError as error:
    raise ExtraMissing("fetching with checked addresses", "httpx2", "serve") from error

if TYPE_CHECKING:
    from httpcore2 import AsyncNetworkStream

#: From a host and a port to the addresses of the host.
Resolve = Callable[[str, int], Awaitable[list[str]]]
REDIRECTS = (301, 302, 303, 307, 308)
#: IPv6 addresses whose last 32 bits are an IPv4 address that is meant: mapped ones, and those of NAT64.
WRAPPING = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))
#: Where the public addresses of IPv6 lie.
UNICAST = ipaddress.ip_network("2000::/3")
#: Special addresses of IANA's registries that Python's `is_global` lets through in one version or another.
SPECIAL = tuple(map(ipaddress.ip_network, (
    "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)))


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a fetch may take: bytes, hops, seconds to connect, between two pieces and altogether; and from where."""

    size: int
    total: float = 20.0
    redirects: int = 3
    connect: float = 5.0
    stall: float = 10.0
    private: bool = False


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a host as the system finds them; spelt in decimal or octal they become plain."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped in.

    >>> [is_public(a) for a in ("93.184.216.34", "127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if any(found in network for network in WRAPPING):
        return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    if found.version == 6 and found not in UNICAST:
        return False
    closed = found.is_multicast or found.is_reserved or found.is_private or any(found in network for network in SPECIAL)
    return found.is_global and not closed


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked.

    Args:
        private: whether any address will do.
        resolve: finds the addresses of a host.
    """

    def __init__(self, private: bool, resolve: Resolve) -> None:
        self.private, self.resolve, self.inner = private, resolve, httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncNetworkStream:
        """A connection to the first address of the host that answers.

        Raises:
            MediaError: when one of the host's addresses is not public.
        """
        addresses = await self.resolve(host, port)
        if not addresses or not (self.private or all(map(is_public, addresses))):
            why = "its address is not one of the public internet"
            raise MediaError(f"host {show(host)}", why, "send the picture itself as a data URL")
        for address in addresses[:-1]:
            # A machine without IPv6 still finds its addresses.
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self.inner.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self.inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


async def fetch(url: str, limits: FetchLimits, resolve: Resolve = resolve_name) -> bytes:
    """The bytes behind an http or https URL, whatever it says they are.

    Raises:
        MediaError: for another scheme, an address that is not public, too many hops, bytes or seconds, and what
            cannot be fetched.
    """
    name = f"URL {show(url)}"
    try:
        async with asyncio.timeout(limits.total):
            return await _follow(url, limits, CheckedBackend(limits.private, resolve))
    except TimeoutError as error:
        raise MediaError(name, f"it took longer than {limits.total:g} seconds", "use a faster server") from error
    except MediaError as error:
        raise MediaError(name, f"{error.given}: {error.why}", error.do) from error
    except (OSError, ValueError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException,
            httpcore2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        reason = first_line(error)
        raise MediaError(name, f"it cannot be fetched ({reason})", "check the address and the network") from error


async def _follow(url: str, limits: FetchLimits, backend: CheckedBackend) -> bytes:
    place = httpx2.URL(url)
    async with httpcore2.AsyncConnectionPool(
        ssl_context=httpx2.create_ssl_context(trust_env=False), network_backend=backend
    ) as pool:
        for _ in range(limits.redirects + 1):
            found = await _get(pool, place, limits)
            if isinstance(found, bytes):
                return found
            place = found
    raise MediaError(f"{limits.redirects + 1} redirects", "they are too many", "give the last address")


async def _get(pool: httpcore2.AsyncConnectionPool, place: httpx2.URL, limits: FetchLimits) -> bytes | httpx2.URL:
    """What lies at a place, or the place it points to."""
    fits = place.host and not place.userinfo and 0 < (place.port or 80) < 65536
    if place.scheme not in ("http", "https") or not fits:
        raise MediaError(f"address {show(str(place))}", "it is no plain http or https URL", "give one")
    seconds = {"connect": limits.connect, "read": limits.stall, "write": limits.stall, "pool": limits.connect}
    raw = httpcore2.URL(scheme=place.raw_scheme, host=place.raw_host, port=place.port, target=place.raw_path)
    # Nothing compressed is asked for: a few bytes could become many.
    headers: dict[bytes | str, bytes | str] = {
        "User-Agent": "vlcore", "Accept": "image/*", "Accept-Encoding": "identity"}
    async with pool.stream("GET", raw, headers=headers, extensions={"timeout": seconds}) as answer:
        named = {name.lower(): value for name, value in answer.headers}
        if answer.status in REDIRECTS and b"location" in named:
            return place.join(named[b"location"].decode("latin1"))
        if answer.status != 200:
            raise MediaError(f"status {answer.status}", "nothing was sent", "check the address")
        return await _read(answer, limits.size)


async def _read(answer: httpcore2.Response, limit: int) -> bytes:
    data = bytearray()
    async for piece in answer.aiter_stream():
        data += piece
        if len(data) > limit:
            raise MediaError(f"more than {limit} bytes", "they are too many", "make it smaller")
    return bytes(data)
