"""What stands before the page: who may come in, how much a request may bring, what the browser may fetch."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "vlcore_web"
#: The browser fetches from this server alone. The page's framework makes its templates into scripts.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Guard:
    """An application around the page's, of pure ASGI, so that web sockets pass it as well.

    Attributes:
        app: the page's application.
        auth: `USER:PASSWORD`; empty for no question.
        most: bytes of a request's body.
        hosts: names that the server may be called by, against pages that point a name of theirs here; empty for any.
        token: what a browser that has given the password brings from then on, as web sockets bring no password.
    """

    app: ASGIApp
    auth: str
    most: int
    hosts: Sequence[str] = ()
    token: str = field(default_factory=secrets.token_urlsafe)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or lets it in."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.refuse(scope, headers)
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, self._mark(send))

    def refuse(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """What is answered to a request that may not come in."""
        host = headers.get("host", "")
        if self.hosts and host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            return PlainTextResponse("call this server by its own address", 400)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("this page asks for another one", 403)
        if self.auth and not self._knows(scope, headers):
            ask = {"www-authenticate": 'Basic realm="vlcore", charset="UTF-8"'}
            return PlainTextResponse("give user and password", 401, ask)
        if headers.get("transfer-encoding"):
            return PlainTextResponse("say how long the body is", 411)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            return PlainTextResponse(f"a request may bring {self.most} bytes", 413)
        return None

    def _knows(self, scope: Scope, headers: Headers) -> bool:
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        given = [value for name, _, value in cookies if name == COOKIE]
        if any(hmac.compare_digest(value.encode(), self.token.encode()) for value in given):
            return True
        kind, _, coded = headers.get("authorization", "").partition(" ")
        try:
            said = base64.b64decode(coded, validate=True)
        except ValueError:
            return False
        return kind.lower() == "basic" and hmac.compare_digest(said, self.auth.encode("utf8"))

    def _mark(self, send: Send) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                if self.auth:
                    headers.append("set-cookie", f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        return marked
