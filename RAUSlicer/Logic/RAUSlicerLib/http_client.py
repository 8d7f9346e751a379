"""A run on a department's server (`rau serve`), with Python's own modules alone.

`remote_client` uses it in a process of its own, for all calls block: `make`, `upload` for each array, `submit` with the
message as for the local worker, then what `events` yields, `slice` events with their preview from `fetch`; `done` means
that the result can be fetched. No proxy of the environment gets to see the images.
"""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from RAUSlicerLib.exchange import FULL
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import LAST, Message, hello

TIMEOUT = 30.0  # seconds without a sign of life
HELLO_PATIENCE = 2.0  # seconds: who greets waits for the answer


class HttpClient:
    """patience: seconds in which a lost connection may come back; context: what https trusts. on_lost: called when a
    connection is lost."""

    def __init__(self, url: str, token: str, patience: float = 60.0, context: ssl.SSLContext | None = None) -> None:
        self.secure, self.host, self.port = address_of(url)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise Problem(_("The token is not usable"), _("Copy it whole from what rau serve printed or wrote"))
        self.headers = {"Authorization": f"Bearer {token}"}
        self.patience, self.context = patience, context
        self.on_lost: Callable[[], None] = lambda: None

    def hello(self) -> Message:
        """Versions, device and limits. Raises Problem."""
        ready = self._json("POST", "/v1/hello", hello(""), patience=min(self.patience, HELLO_PATIENCE))
        if ready.get("event") != "ready":
            raise not_a_server(self.host)
        return ready

    def make(self) -> str:
        """A new job; its name."""
        return str(self._json("POST", "/v1/jobs")["job"])

    def upload(self, job: str, path: Path) -> None:
        """An array file, under its own name."""
        address = f"/v1/jobs/{job}/arrays/{quote(path.name)}"

        def put() -> Message:
            with path.open("rb") as file:
                return self._once("PUT", address, file, {"Content-Length": str(path.stat().st_size)})

        self._patiently(put)

    def submit(self, job: str, message: Message) -> None:
        """A segment message as for the local worker; the server gives it its own number."""
        self._json("POST", f"/v1/jobs/{job}/segment", {**message, "op": "segment", "job": 0})

    def cancel(self, job: str, patience: float | None = None) -> None:
        """Ask to stop it; `events` then ends in `cancelled`."""
        self._json("POST", f"/v1/jobs/{job}/cancel", patience=patience)

    def forget(self, job: str, patience: float | None = None) -> None:
        """Have its files removed."""
        self._json("DELETE", f"/v1/jobs/{job}", patience=patience)

    def events(self, job: str, after: int = 0) -> Iterator[Message]:
        """The events after that number, to the last; {} as a sign of life. A lost connection is made again."""
        lost = None
        while True:
            connection = self._connection()
            try:
                response = self._response(connection, "GET", f"/v1/jobs/{job}/events?after={after}")
                while line := response.readline():
                    event = json.loads(line) if line.strip() else {}
                    lost, after = None, event.get("seq", after)
                    yield event
                    if event.get("event") in LAST:
                        return
            except (OSError, http.client.HTTPException, ValueError):
                pass
            finally:
                connection.close()
            lost = self._wait(lost)

    def fetch(self, job: str, what: str, path: Path) -> None:
        """ "result", or "slices/AXIS/INDEX", into a file."""

        def get() -> None:
            connection = self._connection()
            try:
                response = self._response(connection, "GET", f"/v1/jobs/{job}/{what}")
                with path.open("wb") as file:
                    shutil.copyfileobj(response, file)
                length = response.getheader("Content-Length")
                if length is not None and path.stat().st_size != int(length):
                    raise http.client.IncompleteRead(b"")
            finally:
                connection.close()

        self._patiently(get)

    def _json(
        self, method: str, address: str, message: Message | None = None, patience: float | None = None
    ) -> Message:
        body = b"" if message is None else json.dumps(message, allow_nan=False).encode()
        headers = {"Content-Length": str(len(body))}
        return self._patiently(lambda: self._once(method, address, body, headers), patience)

    def _once(self, method: str, address: str, body: Any, headers: dict[str, str]) -> Message:
        connection = self._connection()
        try:
            found = json.loads(self._response(connection, method, address, body, headers).read())
        except ValueError:
            raise not_a_server(self.host) from None
        finally:
            connection.close()
        if not isinstance(found, dict):
            raise not_a_server(self.host)
        return found

    def _connection(self) -> http.client.HTTPConnection:
        if self.secure:
            return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=self.context)
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)

    def _response(
        self, connection: Any, method: str, address: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Raises Problem with what the server says, OSError or HTTPException when it does not answer."""
        try:
            connection.request(method, address, body, {**self.headers, **(headers or {})})
            response: http.client.HTTPResponse = connection.getresponse()
        except ssl.SSLCertVerificationError:
            text = _("The certificate of the server at {host} is not trusted").format(host=self.host)
            raise Problem(text, _("Have IT install it on this computer"), "Certificate") from None
        except ssl.SSLError:
            text = _("The server at {host} does not speak https").format(host=self.host)
            raise Problem(text, _("Give its address with http://, or have it started with --tls-cert")) from None
        if response.status < 400:
            return response
        try:
            told = json.loads(response.read())
            problem = Problem(told["message"], told.get("hint", ""), told.get("kind", "InputError"))
        except (ValueError, KeyError, TypeError):
            problem = not_ours(response.status)
        raise problem

    def _patiently(self, ask: Any, patience: float | None = None) -> Any:
        lost = None
        while True:
            try:
                return ask()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in FULL:
                    raise  # of our own disk, not of the connection
                lost = self._wait(lost, patience)

    def _wait(self, lost: float | None, patience: float | None = None) -> float:
        """Wait before the next try; when it was lost. Raises Problem when it does not come back."""
        if lost is None:
            lost = time.monotonic()
            self.on_lost()
        if time.monotonic() - lost >= (self.patience if patience is None else patience):
            text = _("The server at {host} does not answer").format(host=self.host)
            raise Problem(text, _("Look whether rau serve runs there, then run again"), "ServerGone")
        time.sleep(0.5)
        return lost


def address_of(url: str) -> tuple[bool, str, int | None]:
    """(https?, host, port) of an address like http://127.0.0.1:8417. Raises Problem."""
    try:
        parts = urlsplit(url.strip())
        if parts.scheme in ("http", "https") and parts.hostname and not parts.username:
            return parts.scheme == "https", parts.hostname, parts.port
    except ValueError:
        pass
    raise Problem(_("The address of the server is not usable"), _("Give one like http://127.0.0.1:8417"))


def not_ours(status: int) -> Problem:
    """An answer that rau serve does not give: of a proxy before it, or of another program."""
    if status in (502, 503, 504):
        text = _("What stands before the server, a proxy, gets no answer from it (status {n})")
        return Problem(text.format(n=status), _("Look whether rau serve runs there, then run again"), "ServerGone")
    if status == 413:
        text = _("What stands before the server, a proxy, takes no images of this size (status {n})")
        return Problem(text.format(n=status), _("Have its limit raised, crop the images, or compute on this computer"))
    return Problem(_("The server answered with status {n}").format(n=status), _("Is it rau serve?"))


def not_a_server(host: str) -> Problem:
    return Problem(
        _("What answers at {host} is no RAUSlicer server").format(host=host),
        _("Look after the address: rau serve prints it"),
        "BrokenProtocol",
    )
