"""A run on a department's server (`rau serve`), with Python's own modules alone.

How the panel can use it: after the user has agreed that pixels leave the computer, a thread (or one turn of a timer per
call) writes the inputs into a private folder as for the local worker, calls `make`, `upload` for each array, `submit`
with the same message, and feeds what `events` yields to the run in the GUI's thread, `slice` events with their preview
from `fetch`; `done` means that the result can be fetched. No call knows Qt or Slicer; all of them block.
"""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import LAST, Message, hello

TIMEOUT = 30.0  # seconds without a sign of life


class HttpClient:
    """patience: seconds in which a lost connection may come back; context: what https trusts."""

    def __init__(self, url: str, token: str, patience: float = 60.0, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Problem(_("The address of the server is not usable"), _("Give one like http://127.0.0.1:8417"))
        self.secure, self.host, self.port = parts.scheme == "https", parts.hostname, parts.port
        self.headers = {"Authorization": f"Bearer {token}"}
        self.patience, self.context = patience, context

    def hello(self) -> Message:
        """Versions, device and limits. Raises Problem."""
        return self._json("POST", "/v1/hello", hello(""))

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

    def cancel(self, job: str) -> None:
        """Ask to stop it; `events` then ends in `cancelled`."""
        self._json("POST", f"/v1/jobs/{job}/cancel")

    def forget(self, job: str) -> None:
        """Have its files removed."""
        self._json("DELETE", f"/v1/jobs/{job}")

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

    def _json(self, method: str, address: str, message: Message | None = None) -> Message:
        body = b"" if message is None else json.dumps(message, allow_nan=False).encode()
        return self._patiently(lambda: self._once(method, address, body, {"Content-Length": str(len(body))}))

    def _once(self, method: str, address: str, body: Any, headers: dict[str, str]) -> Message:
        connection = self._connection()
        try:
            found: Message = json.loads(self._response(connection, method, address, body, headers).read())
            return found
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.secure:
            return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=self.context)
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)

    def _response(
        self, connection: Any, method: str, address: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Raises Problem with what the server says, OSError or HTTPException when it does not answer."""
        connection.request(method, address, body, {**self.headers, **(headers or {})})
        response: http.client.HTTPResponse = connection.getresponse()
        if response.status < 400:
            return response
        try:
            told = json.loads(response.read())
            problem = Problem(told["message"], told.get("hint", ""), told.get("kind", "InputError"))
        except (ValueError, KeyError, TypeError):
            text = _("The server answered with status {n}").format(n=response.status)
            problem = Problem(text, _("Is it rau serve?"))
        raise problem

    def _patiently(self, ask: Any) -> Any:
        lost = None
        while True:
            try:
                return ask()
            except (OSError, http.client.HTTPException, ValueError):
                lost = self._wait(lost)

    def _wait(self, lost: float | None) -> float:
        """Wait before the next try; when it was lost. Raises Problem when it does not come back."""
        lost = time.monotonic() if lost is None else lost
        if time.monotonic() - lost >= self.patience:
            text = _("The server at {host} does not answer").format(host=self.host)
            raise Problem(text, _("Look whether rau serve runs there, then run again"), "ServerGone")
        time.sleep(0.5)
        return lost
