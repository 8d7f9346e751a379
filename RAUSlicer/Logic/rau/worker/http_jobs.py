"""The jobs of `rau serve`: their private folders, the events told so far, and when they go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rau.errors import RauError
from rau.worker import protocol
from rau.worker.protocol import ProtocolError

PREFIX = "rau-serve-"
LAST = ("done", "cancelled", "error")  # the events that end a job
LIFE_SECONDS = 1.0  # between signs of life of an event stream
MOST_ARRAYS = 64  # of one job


@dataclass(frozen=True)
class Limits:
    """upload: bytes of all arrays of a job. jobs: kept at a time, waiting and done. keep: seconds a job outlives the
    last request for it."""

    upload: int = 2048 << 20
    jobs: int = 32
    keep: float = 3600.0


class ServiceError(RauError):
    """A request that is refused. status: of HTTP."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


@dataclass
class Job:
    """One job. events: encoded lines, the one with the number n at n - 1. sizes: bytes by array, uploads included."""

    id: str
    number: int
    folder: Path
    state: str = "open"  # then "waiting", "running", "over"
    request: protocol.SegmentJob | None = None
    cancelled: bool = False
    events: list[bytes] = field(default_factory=list)
    last: str = ""  # the event that ended it
    sizes: dict[str, int] = field(default_factory=dict)
    touched: float = field(default_factory=time.monotonic)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.state == "over"

    def add(self, event: dict[str, Any]) -> None:
        """Keep an event under the next number and wake who waits for it. Nothing comes after the last one."""
        if self.over:
            return
        line = json.dumps({"seq": len(self.events) + 1, **event}, allow_nan=False, separators=(",", ":"))
        self.events.append(line.encode() + b"\n")
        if event["event"] in LAST:
            self.state, self.last = "over", event["event"]
        self.touch()
        self._news.set()
        self._news = asyncio.Event()

    def tell(self, answer: protocol.Answer) -> None:
        """Keep an event of our own."""
        self.add(answer.model_dump(mode="json"))

    async def news(self, seconds: float) -> None:
        """Until an event comes, or that time has passed."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)

    def touch(self) -> None:
        self.touched = time.monotonic()

    def admit(self, name: str, size: int, limit: int) -> None:
        """Reserve room for an array. Raises ServiceError: too large, too many, too late."""
        if self.state != "open":
            raise ServiceError(409, "The job has begun: its arrays cannot be changed", "Make a new job")
        if sum(self.sizes.values()) - self.sizes.get(name, 0) + size > limit:
            raise too_large(limit)
        if name not in self.sizes and len(self.sizes) >= MOST_ARRAYS:
            raise ServiceError(413, f"A job takes up to {MOST_ARRAYS} arrays", "Give fewer references")
        self.sizes[name] = size


def too_large(limit: int) -> ServiceError:
    return ServiceError(
        413,
        f"The images are larger than the server takes for a job ({limit / (1 << 20):.0f} MB)",
        "Crop them, give fewer references, or have the server started with a larger --max-upload-mb",
    )


class Jobs:
    """All jobs, in folders under one private folder that goes with the server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        remove_abandoned(Path(tempfile.gettempdir()))
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))  # mode 0700
        self._jobs: dict[str, Job] = {}
        self._made = 0

    def make(self) -> Job:
        """A new job with an empty folder. Raises ServiceError when there are too many."""
        if len(self._jobs) >= self.limits.jobs:
            raise ServiceError(503, "The server has as many jobs as it takes", "Try again in some minutes")
        self._made += 1
        name = secrets.token_hex(16)
        folder = self.root / name
        folder.mkdir(mode=0o700)
        self._jobs[name] = Job(name, self._made, folder)
        return self._jobs[name]

    def get(self, name: str) -> Job:
        """The job of that name, whose time starts anew. Raises ServiceError."""
        job = self._jobs.get(name)
        if job is None:
            raise ServiceError(
                404, "The server does not know this job: it was started again, or the job is too old", "Run again"
            )
        job.touch()
        return job

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before a waiting one."""
        return sum(one.state in ("waiting", "running") and one.number < job.number for one in self._jobs.values())

    def remove(self, job: Job) -> None:
        """Forget a job, with its files. One that runs has to be over first."""
        self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def expire(self) -> None:
        """Remove the jobs that nobody has asked for in a while; those that wait or run stay."""
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.state in ("open", "over") and now - job.touched > self.limits.keep:
                self.remove(job)

    def close(self) -> None:
        self._jobs.clear()
        shutil.rmtree(self.root, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Folders of this user's servers that were killed. (On Windows nobody can be asked whether they live.)"""
    for folder in parent.glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError, ValueError):
            status, owner = folder.lstat(), int(folder.name.removeprefix(PREFIX).split("-")[0])
            if sys.platform != "win32" and status.st_uid == os.getuid() and not folder.is_symlink() and gone(owner):
                shutil.rmtree(folder, ignore_errors=True)


def gone(pid: int) -> bool:
    """Whether no process has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def store_name(name: str) -> str:
    """The name of an array, checked as the protocol does. Raises ProtocolError."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(protocol.ArrayName).validate_python(name)
    except ValidationError:
        raise ProtocolError("The name of an array is not valid", "Use letters, digits and .npy") from None
