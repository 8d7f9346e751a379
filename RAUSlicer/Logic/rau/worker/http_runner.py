"""What `rau serve` computes with: one `python -m rau.worker` for its device, one job at a time, the others wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from rau.worker import protocol
from rau.worker.http_guard import of_the_server
from rau.worker.http_jobs import LAST, Job, Jobs, ServiceError
from rau.worker.process import LONGEST_LINE

WORKER = (sys.executable, "-m", "rau.worker")
START_SECONDS = 180.0  # importing torch from a slow disk takes its time
CANCEL_SECONDS = 10.0
LEAVE_SECONDS = 3.0


class Ended(Exception):
    """The worker process is gone."""


class Child:
    """The worker process: started when it is needed, again when it has died. What it prints is dropped: names of
    images may be in it."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self.command = command
        self.process: asyncio.subprocess.Process | None = None

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message. Raises Ended."""
        if self.process is None or self.process.stdin is None:
            raise Ended
        try:
            self.process.stdin.write(json.dumps(message, allow_nan=False).encode() + b"\n")
            await self.process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise Ended from None

    async def receive(self) -> dict[str, Any]:
        """The next event. Raises Ended."""
        if self.process is None or self.process.stdout is None:
            raise Ended
        try:
            line = await self.process.stdout.readline()
            event = json.loads(line) if line else None
        except ValueError:  # no JSON, or a line without an end
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise Ended
        return event

    async def greet(self, folder: str) -> dict[str, Any]:
        """Start it if need be and name the folder of the arrays; what it answers. Raises Ended."""
        if self.process is None or self.process.returncode is not None:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LONGEST_LINE,
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,
            )
        await self.send({"op": "hello", "protocol": protocol.VERSION, "folder": folder})
        try:
            while True:
                answer = await asyncio.wait_for(self.receive(), START_SECONDS)
                if answer["event"] == "ready" or (answer["event"] == "error" and answer.get("job") is None):
                    return answer
        except asyncio.TimeoutError:
            raise Ended from None

    async def kill(self) -> None:
        """At once; the next greeting starts another one."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def leave(self) -> None:
        """Close its input and wait a moment, then kill it."""
        process = self.process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), LEAVE_SECONDS)
        await self.kill()


class Runner:
    """Takes the waiting jobs one after the other."""

    def __init__(self, jobs: Jobs, child: Child) -> None:
        self.jobs, self.child = jobs, child
        self.waiting: asyncio.Queue[Job] = asyncio.Queue()
        self.ready: dict[str, Any] = {}
        self._turn = asyncio.Lock()

    async def hello(self) -> dict[str, Any]:
        """The worker's answer to the greeting: versions and device. Raises ServiceError when it has none."""
        if not self.ready:
            async with self._turn:
                if not self.ready:
                    self.ready = await self._first()
        return self.ready

    async def _first(self) -> dict[str, Any]:
        try:
            answer = await self.child.greet(str(self.jobs.root))
        except Ended:
            await self.child.kill()
            raise ServiceError(503, "The worker of the server does not start", "Look after its installation") from None
        if answer["event"] != "ready":
            raise ServiceError(503, answer["message"], answer.get("hint", ""))
        return answer

    def submit(self, job: Job, request: protocol.SegmentJob) -> None:
        """Put a job with its message into the queue."""
        job.request, job.state = request, "waiting"
        ahead = self.jobs.ahead_of(job)
        if ahead:
            words = f"waiting for {ahead} other run{'s' if ahead > 1 else ''}"
            job.tell(protocol.Stage(job=job.number, stage="queue", message=words))
        self.waiting.put_nowait(job)

    async def run(self) -> None:
        """For ever."""
        while True:
            job = await self.waiting.get()
            if not job.over:
                async with self._turn:
                    await self._one(job)

    async def _one(self, job: Job) -> None:
        assert job.request is not None
        job.state, start = "running", time.monotonic()
        try:
            answer = await self.child.greet(str(job.folder))
            if answer["event"] == "ready":
                self.ready = answer
                await self.child.send(job.request.model_dump(mode="json"))
                if job.cancelled:  # asked for while the worker started
                    await self.child.send({"op": "cancel", "job": job.number})
                while not job.over:
                    event = await self.child.receive()
                    if event.get("job") == job.number or event["event"] in LAST:
                        job.add(of_the_server(event))
            else:
                job.add(of_the_server({**answer, "job": job.number}))
        except Ended:
            await self.child.kill()
            job.tell(stopped(job))
        log(f"job {job.number}: {job.last}, {time.monotonic() - start:.1f} s")

    async def cancel(self, job: Job) -> None:
        """Stop a job; one that does not stop in time goes with its worker process."""
        if job.over:
            return
        job.cancelled = True
        if job.state != "running":
            job.tell(protocol.Stopped(job=job.number))
            return
        with contextlib.suppress(Ended):
            await self.child.send({"op": "cancel", "job": job.number})
        asyncio.get_running_loop().call_later(CANCEL_SECONDS, self._too_late, job)

    def _too_late(self, job: Job) -> None:
        if not job.over and self.child.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.child.process.kill()


def stopped(job: Job) -> protocol.Answer:
    """The end of a job whose worker process is gone."""
    if job.cancelled:
        return protocol.Stopped(job=job.number)
    return protocol.Failed(
        job=job.number,
        kind="WorkerEnded",
        message="The model process of the server ended unexpectedly",
        hint="Run again; when it happens again, choose the device cpu or a smaller image",
        exit_code=1,
    )


def log(line: str) -> None:
    """Numbers, kinds and times only: nothing that a client sent is ever written here."""
    print(line, file=sys.stderr, flush=True)
