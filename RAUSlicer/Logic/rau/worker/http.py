"""The worker over HTTP: the protocol of `rau.worker.protocol`, version 1, for a department's GPU server.

The messages are those of the standard streams; a job has a name and a folder of its own on the server.

| request | |
| --- | --- |
| POST /v1/hello, `hello` | `ready`, with the limits |
| POST /v1/jobs | {"job": name} |
| PUT /v1/jobs/NAME/arrays/A.npy | an array of the job |
| POST /v1/jobs/NAME/segment, `segment` | the job goes into the queue; sent twice it is the same job |
| GET /v1/jobs/NAME/events?after=N | events as JSON lines with a number `seq`: those after N, to the last |
| GET /v1/jobs/NAME/slices/AXIS/INDEX | preview of a slice that was told, .npy |
| GET /v1/jobs/NAME/result | the label map when done, .npy |
| POST /v1/jobs/NAME/cancel | stop it; ends in the event `cancelled` |
| DELETE /v1/jobs/NAME | stop and forget it |

Empty lines between events are signs of life. A run goes on when its client loses the connection: it asks for the events
after the last number that it saw. Whatever fails is answered with one object like the event `error`. Imported by
`rau serve` alone, for it needs fastapi.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response, StreamingResponse

from rau.errors import InputError
from rau.worker import protocol
from rau.worker.arrays import open_array
from rau.worker.http_guard import Guard, refusal
from rau.worker.http_jobs import LIFE_SECONDS, Job, Jobs, Limits, ServiceError, store_name
from rau.worker.http_runner import WORKER, Child, Runner
from rau.worker.protocol import ProtocolError

MAGIC = b"\x93NUMPY"  # how a .npy file begins
NPY = "application/octet-stream"


class Service:
    """Jobs and the runner, alive between start and end of the application."""

    def __init__(self, limits: Limits, command: Sequence[str]) -> None:
        self.limits, self.command = limits, command

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.jobs = Jobs(self.limits)
        self.runner = Runner(self.jobs, Child(self.command))
        tasks = [asyncio.create_task(self.runner.run()), asyncio.create_task(self._expire())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self.runner.child.leave()
            self.jobs.close()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(30.0, self.limits.keep / 4))
            self.jobs.expire()

    async def take(self, job: Job, name: str, request: Request) -> None:
        """Write an upload into the job's folder, whole or not at all. Raises ServiceError, ProtocolError, OSError."""
        size = int(request.headers.get("content-length", "0"))
        job.admit(name, size, self.limits.upload)
        part = job.folder / f".{secrets.token_hex(8)}.part"
        try:
            with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as file:
                async for piece in request.stream():
                    file.write(piece)
            with part.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise ProtocolError(f"The array {name} is no .npy file")
            if part.stat().st_size != size:
                raise ServiceError(400, "The upload broke off", "Send the array again")
            os.replace(part, job.folder / name)
            if open_array(job.folder, name).ndim not in (3, 4):
                raise ProtocolError(f"The array {name} is no volume")
        except BaseException:
            job.sizes.pop(name, None)
            (job.folder / name).unlink(missing_ok=True)
            raise
        finally:
            part.unlink(missing_ok=True)

    def submit(self, job: Job, body: bytes) -> None:
        """Put the job of a message into the queue. Raises ProtocolError, InputError, ServiceError."""
        from rau.models.store import known_models

        request = protocol.parse(body.decode("utf-8", "replace"))
        if not isinstance(request, protocol.SegmentJob):
            raise ProtocolError("A segment message is expected here")
        request = request.model_copy(update={"job": job.number})
        if job.state != "open":
            if request == job.request:
                return  # sent again by a client that missed the answer
            raise ServiceError(409, "The job has begun already", "Make a new job")
        known = ("auto", *known_models())
        if request.settings.model not in known:
            raise InputError("The server does not have the model that was asked for", f"It has: {', '.join(known)}")
        if request.settings.adapter:  # a path on the server, as a bank is
            raise InputError("An adapter of yours is not to be had from a server", "Leave it out, or compute here")
        if request.bank:  # a path on the server, which is not the client's to name
            raise InputError("References of a bank are not to be had from a server", "Send them, or compute here")
        if request.result in job.sizes:
            raise ProtocolError("The result has the name of an array that was sent")
        self.runner.submit(job, request)

    async def events(self, job: Job, after: int) -> AsyncIterator[bytes]:
        """The lines after that number, as they come; an empty one where nothing came for a while."""
        told = after
        while True:
            while told < len(job.events):
                told += 1
                yield job.events[told - 1]
            if job.over:
                return
            await job.news(LIFE_SECONDS)
            job.touch()
            if told == len(job.events):
                yield b"\n"

    async def forget(self, job: Job) -> None:
        """Stop a job, and remove its files when it has stopped."""
        await self.runner.cancel(job)
        while not job.over:
            await job.news(LIFE_SECONDS)
        self.jobs.remove(job)


def make_app(
    token: str,
    *,
    limits: Limits | None = None,
    names: frozenset[str] = frozenset(),
    remote: bool = False,
    command: Sequence[str] = WORKER,
) -> Guard:
    """The application, an ASGI callable. token: what every request has to bring; the others: see `Guard`, `Child`."""
    limits = limits or Limits()
    service = Service(limits, command)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=service.lifespan)
    _add_errors(app)
    _add_jobs(app, service)
    _add_results(app, service)
    return Guard(app, token, names, remote, limits.upload)


def _add_errors(app: FastAPI) -> None:
    async def failed(request: Request, error: Exception) -> Response:
        answer: Response = refusal(error)
        return answer

    async def not_valid(request: Request, error: Exception) -> Response:
        return await failed(
            request, ServiceError(422, "The request is not valid", "Use the client of the same version")
        )

    async def no_route(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return await failed(request, ServiceError(status, "There is nothing under this address", "See rau.worker.http"))

    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, failed)
    for kind in (ServiceError, ProtocolError, InputError, OSError, ClientDisconnect):
        app.add_exception_handler(kind, failed)


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post("/v1/hello")
    async def hello(request: Request) -> dict[str, Any]:
        given = protocol.parse((await request.body()).decode("utf-8", "replace"))
        if not isinstance(given, protocol.Hello) or given.protocol != protocol.VERSION:
            raise ProtocolError(
                f"The server speaks protocol {protocol.VERSION}", "Bring both sides to the same version of RAUSlicer"
            )
        ready = await service.runner.hello()
        limits = {"upload": service.limits.upload, "keep_seconds": service.limits.keep}
        return {**ready, "limits": limits}

    @app.post("/v1/jobs", status_code=201)
    async def make() -> dict[str, str]:
        return {"job": service.jobs.make().id}

    @app.put("/v1/jobs/{job}/arrays/{name}", status_code=201)
    async def upload(job: str, name: str, request: Request) -> dict[str, str]:
        await service.take(service.jobs.get(job), store_name(name), request)
        return {"array": name}

    @app.post("/v1/jobs/{job}/segment", status_code=202)
    async def segment(job: str, request: Request) -> dict[str, str]:
        service.submit(service.jobs.get(job), await request.body())
        return {"job": job}

    @app.post("/v1/jobs/{job}/cancel", status_code=202)
    async def cancel(job: str) -> dict[str, str]:
        await service.runner.cancel(service.jobs.get(job))
        return {"job": job}

    @app.delete("/v1/jobs/{job}")
    async def forget(job: str) -> dict[str, str]:
        await service.forget(service.jobs.get(job))
        return {"job": job}


def _add_results(app: FastAPI, service: Service) -> None:
    @app.get("/v1/jobs/{job}/events")
    async def events(job: str, after: int = 0) -> StreamingResponse:
        known = service.jobs.get(job)
        if not 0 <= after <= len(known.events):
            raise ServiceError(400, "There is no event of that number", "Ask for those after one that was seen")
        return StreamingResponse(service.events(known, after), media_type="application/x-ndjson")

    @app.get("/v1/jobs/{job}/slices/{axis}/{index}")
    async def preview(job: str, axis: int, index: int) -> Response:
        known = service.jobs.get(job)
        request = known.request
        if request is None or known.state not in ("running", "over"):
            raise ServiceError(409, "The job has not begun")
        shape = request.target.geometry.shape
        if not (0 <= axis < 3 and 0 <= index < shape[axis]):
            raise ServiceError(404, "There is no such slice")
        array = np.moveaxis(open_array(known.folder, request.result), axis, 0)[index]
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
        return Response(stream.getvalue(), media_type=NPY)

    @app.get("/v1/jobs/{job}/result")
    async def result(job: str) -> FileResponse:
        known = service.jobs.get(job)
        if known.last != "done" or known.request is None:
            raise ServiceError(409, "The job has no result" + ("" if known.over else " yet"))
        return FileResponse(known.folder / known.request.result, media_type=NPY)
