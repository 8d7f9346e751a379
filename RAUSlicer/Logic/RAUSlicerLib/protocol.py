"""The panel's half of the worker's protocol, version 1: one JSON object a line. Its other half: `rau.worker`."""

from __future__ import annotations

import json
from typing import Any

VERSION = 1
LONGEST_LINE = 1 << 24  # bytes; a report of a long volume stays far below
LAST = ("done", "cancelled", "error")  # the events that end a job

Message = dict[str, Any]


class BrokenProtocol(Exception):
    """The other side does not speak the protocol."""


def encoded(message: Message) -> bytes:
    """One line, with its line feed."""
    return (json.dumps(message, allow_nan=False, separators=(",", ":")) + "\n").encode()


class Lines:
    """Puts the pieces that a pipe delivers together to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that are complete now. Raises BrokenProtocol on anything that is no event."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise BrokenProtocol("a line without an end")
        return [self._message(line) for line in lines if line.strip()]

    @staticmethod
    def _message(line: bytes) -> Message:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise BrokenProtocol("a line that is no JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("event"), str):
            raise BrokenProtocol("a line that is no event")
        return message


def hello(folder: str) -> Message:
    return {"op": "hello", "protocol": VERSION, "folder": folder}


def cancel(job: int) -> Message:
    return {"op": "cancel", "job": job}


def leave() -> Message:
    return {"op": "quit"}
