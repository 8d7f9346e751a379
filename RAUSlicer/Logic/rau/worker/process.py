"""The loop of the worker: a thread reads messages, the main thread segments; the model stays loaded between jobs."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from rau.errors import Cancelled, ModelError, RauError, out_of_memory
from rau.events import Event, SliceEvent, StageEvent, WarningEvent
from rau.settings import SegmentSettings
from rau.worker import protocol
from rau.worker.arrays import open_corrections, open_image, open_reference, open_result
from rau.worker.failure import failure_of
from rau.worker.protocol import ProtocolError

if TYPE_CHECKING:
    from rau.models.engine import Engine

LONGEST_LINE = 1 << 24  # characters


class Inbox:
    """What has arrived: requests in order; cancelled jobs and the end as soon as they are read."""

    def __init__(self) -> None:
        self.requests: queue.Queue[protocol.Request | RauError | None] = queue.Queue()
        self.ended = threading.Event()
        self._cancelled: set[int] = set()
        self._lock = threading.Lock()

    def read(self, stream: TextIO) -> None:
        """Until quit or the end of the stream (the other side is gone): whatever runs then stops."""
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(LONGEST_LINE):
                if line.strip() and not self._take(line):
                    break
        self.ended.set()
        self.requests.put(None)

    def _take(self, line: str) -> bool:
        try:
            request = protocol.parse(line)
        except RauError as error:
            self.requests.put(error)
            return True
        if isinstance(request, protocol.Cancel):
            with self._lock:
                self._cancelled.add(request.job)
        elif not isinstance(request, protocol.Quit):
            self.requests.put(request)
        return not isinstance(request, protocol.Quit)

    def stopped(self, job: int) -> bool:
        with self._lock:
            return self.ended.is_set() or job in self._cancelled

    def forget(self, job: int) -> None:
        with self._lock:
            self._cancelled.discard(job)


class Worker:
    """Answers requests on `channel`. Holds the loaded engine and the private folder."""

    def __init__(self, channel: TextIO) -> None:
        self.channel, self.inbox = channel, Inbox()
        self.folder: Path | None = None
        self.engine: Engine | None = None
        self.loaded: tuple[Any, ...] = ()

    def send(self, answer: protocol.Answer) -> None:
        """Write one line. A channel that is closed ends the worker."""
        try:
            self.channel.write(protocol.encoded(answer))
            self.channel.flush()
        except (BrokenPipeError, ConnectionError):
            self.inbox.ended.set()

    def run(self) -> None:
        while (request := self.inbox.requests.get()) is not None:
            job = getattr(request, "job", None)
            try:
                if isinstance(request, RauError):
                    raise request
                self._answer(request)
            except Cancelled:
                self.send(protocol.Stopped(job=job if job is not None else -1))
            except Exception as error:
                self._failed(error, job)
            if job is not None:
                self.inbox.forget(job)

    def _answer(self, request: protocol.Request) -> None:
        if isinstance(request, protocol.Hello):
            self.hello(request)
        elif isinstance(request, protocol.SegmentJob):
            self.segment(request)
        elif isinstance(request, protocol.Service):
            self.serve(request)

    def _failed(self, error: Exception, job: int | None) -> None:
        if out_of_memory(error):
            self._unload()
        told = failure_of(error)
        print(told.trace or told.kind, file=sys.stderr, flush=True)  # the message may hold a name: it goes to who asked
        self.send(
            protocol.Failed(
                job=job,
                kind=told.kind,
                message=told.message,
                hint=told.hint,
                exit_code=told.exit_code,
                trace=told.trace,
            )
        )

    def hello(self, request: protocol.Hello) -> None:
        if request.protocol != protocol.VERSION:
            raise ProtocolError(
                f"The worker speaks protocol {protocol.VERSION}, not {request.protocol}", "Install RAUSlicer again"
            )
        if not os.path.isdir(request.folder):
            raise ProtocolError("The worker's folder does not exist")
        self.folder = Path(request.folder)
        self.send(protocol.Ready(versions=versions(), device=device()))

    def segment(self, request: protocol.SegmentJob) -> None:
        from rau.description.results import with_descriptions
        from rau.pipeline import segment
        from rau.worker.from_bank import from_bank, narrowed

        folder = self._folder(request)
        job = Job(self, request.job)
        job.check()
        target = open_image(folder, request.target)
        references = []
        for one in request.references:
            reference, notes = open_reference(folder, one)
            references.append(reference)
            job.note(notes)
        more: dict[str, Any] = {}
        if request.corrections is not None:
            more["corrections"] = open_corrections(folder, request.corrections, target)
        job.result = open_result(folder, request.result, target.geometry.shape)
        engine, settings, picked = self._engine(request.settings, job), request.settings, None
        job.check()
        if request.bank:
            picked = from_bank(request, target, engine, lambda line: job.note((line,)))
            for chosen in picked.chosen:
                job.on_event(StageEvent("retrieve", f"from the bank: {chosen.entry.label} ({chosen.reason})"))
            references += picked.references
            settings = narrowed(settings, references, lambda line: job.note((line,)))
        found = segment(
            references,
            target,
            settings,
            engine=engine,
            on_event=job.on_event,
            should_stop=lambda: self.inbox.stopped(request.job),
            **more,
        )
        if picked is not None:
            found = replace(found, provenance={**found.provenance, "bank": picked.report()})
        job.check()
        found = with_descriptions(found, target)
        job.result[...] = found.labels.array
        job.result.flush()
        self.send(protocol.Done(job=request.job, report=found.report()))

    def serve(self, request: protocol.Service) -> None:
        """What comes before a run and what is done with a result; see `rau.worker.services`."""
        from rau.worker.services import answer

        folder, job = self._folder(request), Job(self, request.job)
        job.check()
        told = answer(folder, request, lambda line: job.note((line,)), lambda settings: self._engine(settings, job))
        self.send(protocol.Done(job=request.job, report=told))

    def _folder(self, request: protocol.SegmentJob | protocol.Service) -> Path:
        if self.folder is None:
            raise ProtocolError("A job came before the greeting", job=request.job)
        return self.folder

    def _engine(self, settings: SegmentSettings, job: Job) -> Engine:
        """The loaded engine; loaded again only when model, device, threads or the VLM's part are others."""
        from rau.models.engine import load_engine

        wanted = (settings.model, settings.device, settings.threads, settings.reasoning)
        if self.engine is None or wanted != self.loaded:
            job.on_event(StageEvent("load"))
            self._unload()
            self.engine = load_engine(settings)
            self.loaded = wanted
        return self.engine

    def _unload(self) -> None:
        self.engine, self.loaded = None, ()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


class Job:
    """One job's way out: events to messages, previews into the result."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker, self.number = worker, number
        self.result: np.memmap | None = None

    def check(self) -> None:
        if self.worker.inbox.stopped(self.number):
            raise Cancelled()

    def note(self, lines: Iterable[str]) -> None:
        """What the user should know."""
        for line in lines:
            self.on_event(WarningEvent(line))

    def on_event(self, event: Event) -> None:
        if isinstance(event, StageEvent):
            self.worker.send(protocol.Stage(job=self.number, stage=event.stage, message=event.message))
        elif isinstance(event, WarningEvent):
            self.worker.send(protocol.Warned(job=self.number, message=event.message))
        else:
            self._slice(event)

    def _slice(self, event: SliceEvent) -> None:
        shown = event.labels is not None and self.result is not None
        if event.labels is not None and self.result is not None:
            np.moveaxis(self.result, event.axis, 0)[event.index] = event.labels
            self.result.flush()
        self.worker.send(
            protocol.Slice(
                job=self.number,
                done=event.done,
                total=event.total,
                index=event.index,
                axis=event.axis,
                has_labels=shown,
                score=round(float(event.score), 4),
                ms=round(float(event.milliseconds), 2),
            )
        )


def versions() -> dict[str, Any]:
    """Of Python, of the engine and of the packages it stands on; None: not installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import rau

    found: dict[str, Any] = {"rau": rau.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "sam2", "SimpleITK", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def device() -> str:
    """Where "auto" computes. Raises ModelError when torch cannot be loaded."""
    try:
        import torch
    except (ImportError, OSError):
        raise ModelError(
            "PyTorch is not installed in the worker's environment, or is broken", "Install it again"
        ) from None
    return "cuda" if torch.cuda.is_available() else "cpu"


def serve(input_stream: TextIO, output_stream: TextIO) -> None:
    """Answer the messages of `input_stream` on `output_stream` until quit or its end."""
    worker = Worker(output_stream)
    threading.Thread(target=worker.inbox.read, args=(input_stream,), daemon=True, name="reader").start()
    worker.run()


def main() -> int:
    """The worker over the standard streams of this process. Whatever else is printed goes to stderr."""
    channel, sys.stdout = sys.stdout, sys.stderr
    channel.flush()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    stream = os.fdopen(os.dup(0), encoding="utf-8", errors="replace", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        serve(stream, output)
    except KeyboardInterrupt:
        return 130
    return 0
