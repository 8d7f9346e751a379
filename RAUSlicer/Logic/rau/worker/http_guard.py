"""Who may talk to `rau serve`: a Host header that is ours, the token, a body that says its size."""

from __future__ import annotations

import hmac
import ipaddress
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rau.worker.failure import failure_of
from rau.worker.http_jobs import ServiceError, too_large

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
LONGEST_MESSAGE = 4 << 20  # bytes of a body that is no array
SHORT_OF = {
    "DiskFull": ("The disk of the server is full", "Tell who runs it"),
    "OutOfMemory": (
        "The memory of the server or its GPU does not suffice for this image",
        "Choose the device cpu or the acquisition plane only, or a smaller image",
    ),
}


def is_loopback(host: str) -> bool:
    """Whether an address or name stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_of(header: str) -> str:
    """The host of a Host header, without its port, in lower case; "" when it is none."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


class Guard:
    """An ASGI middleware in front of everything.

    names: host names by which the server is called. Loopback is always right, and with `remote` any literal address:
    a page that rebinds its name to our address (DNS rebinding) sends its own name. limit: bytes of an upload.
    """

    def __init__(self, app: App, token: str, names: frozenset[str], remote: bool, limit: int) -> None:
        self.app, self.token, self.remote, self.limit = app, token.encode(), remote, limit
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self.check(headers, scope["method"])
        except ServiceError as problem:
            await refusal(problem)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # answered already where it could be; told without what a client sent
            print(failure_of(error).trace, file=sys.stderr, flush=True)

    def check(self, headers: dict[str, str], method: str) -> None:
        """Raises ServiceError."""
        if not self.called_rightly(host_of(headers.get("host", ""))):
            raise ServiceError(421, "The server is not known under this name", "Call it by its address, or see --name")
        given = headers.get("authorization", "")
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self.token):
            raise ServiceError(401, "The token is missing or wrong", "Give the one that rau serve printed or wrote")
        if method in ("POST", "PUT", "PATCH"):
            self._check_size(headers, self.limit if method == "PUT" else LONGEST_MESSAGE)

    def called_rightly(self, host: str) -> bool:
        if is_loopback(host) or host in self.names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return self.remote

    @staticmethod
    def _check_size(headers: dict[str, str], limit: int) -> None:
        if "transfer-encoding" in headers:
            raise ServiceError(411, "The request does not say its size", "Send Content-Length")
        size = headers.get("content-length", "0")
        if not size.isdecimal():
            raise ServiceError(400, "The size of the request is no number")
        if int(size) > limit:
            raise too_large(limit)


def refusal(problem: Exception) -> Any:
    """The answer to a request that failed: one JSON object like the protocol's error event."""
    from starlette.responses import JSONResponse

    told = failure_of(problem)
    status = getattr(problem, "status", 422 if told.exit_code == 2 else 500)
    if told.kind == "DiskFull":
        status = 507
    content = {"event": "error", "job": None, "kind": told.kind, "message": told.message, "hint": told.hint}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(of_the_server({**content, "exit_code": told.exit_code}), status, headers)


def of_the_server(event: dict[str, Any]) -> dict[str, Any]:
    """An error of which a client would think that its own computer is meant."""
    words = SHORT_OF.get(str(event.get("kind"))) if event.get("event") == "error" else None
    return event if words is None else {**event, "message": words[0], "hint": words[1]}
