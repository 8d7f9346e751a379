"""A process that looks like the worker and hands its jobs to a server: `python remote_client.py` with Slicer's Python.

It speaks the worker's protocol on its standard streams and `rau serve`'s over the network, so that the panel's run is
the same for both, and nothing of the network ever holds up the panel. Address and token come as environment variables
(arguments can be seen by others). Standard library and numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

if __name__ == "__main__":  # started as a script, in a Python that knows nothing of this package
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.modules["slicer"] = None  # type: ignore[assignment]  # Slicer's Python has one that wants the application

import numpy as np

from RAUSlicerLib import protocol
from RAUSlicerLib.exchange import FULL, unwritable, write_array
from RAUSlicerLib.http_client import HttpClient
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import LAST, Message
from RAUSlicerLib.stepping import unexpected

ADDRESS, TOKEN, PATIENCE = "RAU_SERVER", "RAU_SERVER_TOKEN", "RAU_SERVER_PATIENCE"


class RemoteWorker:
    """Answers on `channel`. One job at a time; a wish to cancel is heard at any time."""

    def __init__(self, channel: TextIO, client: HttpClient) -> None:
        self.channel, self.client = channel, client
        self.requests: queue.Queue[Message | None] = queue.Queue()
        self.folder = Path()
        self.limit = 0
        self.cancelled: set[int] = set()
        self._told = threading.Lock()
        self._over: set[int] = set()
        self._at_server: dict[int, str] = {}
        client.on_lost = self._lost

    def send(self, message: Message) -> None:
        """Of a job nothing comes after its last word."""
        job = message.get("job")
        with self._told, contextlib.suppress(OSError, ValueError):
            if job is not None and job in self._over:
                return
            if job is not None and message["event"] in LAST:
                self._over.add(job)
            self.channel.write(protocol.encoded(message).decode())
            self.channel.flush()

    def read(self, stream: TextIO) -> None:
        """Until quit or the end of the stream."""
        for line in stream:
            message = json.loads(line)
            if message["op"] == "cancel":
                self._cancel(int(message["job"]))
            elif message["op"] == "quit":
                break
            else:
                self.requests.put(message)
        self.requests.put(None)
        for job in list(self._at_server):
            self._cancel(job)

    def run(self) -> None:
        while (request := self.requests.get()) is not None:
            job = request.get("job")
            try:
                if request["op"] == "hello":
                    self._hello(request)
                else:
                    self._job(int(request["job"]), request)
            except Problem as problem:
                self._failed(job, problem)
            except OSError as error:
                self._failed(job, unwritable(error) if error.errno in FULL else unexpected(error))
            except Exception as error:
                self._failed(job, unexpected(error))

    # -- requests
    def _hello(self, request: Message) -> None:
        self.folder = Path(request["folder"])
        ready = self.client.hello()
        self.limit = int(ready.get("limits", {}).get("upload", 0))
        self.send({**ready, "device": f"{ready.get('device', '')}, {self.client.host}"})

    def _job(self, job: int, request: Message) -> None:
        if request["op"] != "segment":
            raise Problem(_("A server only segments"), _("Untick the server under Remote, then do it again"))
        check_local(request)
        files = [self.folder / name for name in arrays_of(request)]
        size = sum(path.stat().st_size for path in files)
        if self.limit and size > self.limit:
            sizes = _("The images have {n} MB, the server takes {m} MB").format(n=size >> 20, m=self.limit >> 20)
            raise Problem(
                sizes, _("Crop them, take fewer references, or have it started with a larger --max-upload-mb")
            )
        name = self._at_server[job] = self.client.make()
        try:
            for number, path in enumerate(files, start=1):
                if job in self.cancelled:
                    return
                words = _("Sending image {k} of {n}").format(k=number, n=len(files))
                self.send({"event": "stage", "job": job, "stage": "send", "message": words})
                self.client.upload(name, path)
            self.client.submit(name, nameless(request))
            self._follow(job, name, request)
        finally:
            self._at_server.pop(job, None)
            with contextlib.suppress(Problem):
                self.client.forget(name, patience=0.0)

    def _follow(self, job: int, name: str, request: Message) -> None:
        """Pass the events on; the label map comes into the file that the panel looks at."""
        shape = tuple(request["target"]["geometry"]["shape"])
        path = self.folder / request["result"]
        for _step in write_array(path, np.zeros(shape, np.uint16)):  # a mapped file alone would not take its room
            pass
        result = np.lib.format.open_memmap(path, "r+")
        part = self.folder / f"job{job}-part.npy"
        free_at = 0.0
        for event in self.client.events(name):
            if job in self.cancelled:
                return
            if not event:
                continue
            told = {key: value for key, value in event.items() if key != "seq"} | {"job": job}
            if event["event"] == "slice" and event["has_labels"]:
                began = time.monotonic()
                told["has_labels"] = began >= free_at  # previews take half of the time at most
                if told["has_labels"]:
                    self._preview(name, part, result, int(event["axis"]), int(event["index"]))
                    free_at = 2 * time.monotonic() - began
            elif event["event"] == "done":
                self.client.fetch(name, "result", part)
                result[...] = checked(part, shape)
                result.flush()
            if event["event"] in LAST:
                part.unlink(missing_ok=True)
            self.send(told)

    def _preview(self, name: str, part: Path, result: np.ndarray, axis: int, index: int) -> None:
        self.client.fetch(name, f"slices/{axis}/{index}", part)
        plane = np.moveaxis(result, axis, 0)[index]
        plane[...] = checked(part, plane.shape)

    # -- cancel, loss, failure
    def _cancel(self, job: int) -> None:
        """Answer at once, and let the server know; it forgets a job by itself when that fails."""
        self.cancelled.add(job)
        self.send({"event": "cancelled", "job": job})
        name = self._at_server.get(job)
        if name is not None:
            with contextlib.suppress(Problem):
                self.client.cancel(name, patience=0.0)

    def _lost(self) -> None:
        words = _("The connection to the server was lost for a while")
        for job in list(self._at_server):
            self.send({"event": "warning", "job": job, "message": words})

    def _failed(self, job: Any, problem: Problem) -> None:
        told = {"event": "error", "kind": problem.kind, "message": problem.message, "hint": problem.hint}
        self.send({**told, "job": job, "trace": ""})


def arrays_of(request: Message) -> list[str]:
    """The names of the files that a segment message speaks of."""
    found = [request["target"]["array"]]
    for one in request["references"]:
        found += [one["image"]["array"], one["labels"]["array"]]
    if request.get("corrections"):
        found.append(request["corrections"]["labels"]["array"])
    return found


def check_local(request: Message) -> None:
    """Raises Problem when the message names a folder of this computer: a server knows it not, and need not."""
    if request.get("bank"):
        text = _("The references of a bank are not to be had from a server")
        raise Problem(text, _("Load them into the scene, or untick the server under Remote"))
    model = str(request["settings"].get("model", "auto"))
    if "/" in model or "\\" in model:
        text = _("A server does not know the model folder of this computer")
        raise Problem(text, _("Empty the field Model folder under Advanced, or untick the server under Remote"))


def nameless(request: Message) -> Message:
    """Without the names of the volumes: they may be a patient's."""
    references = []
    for number, one in enumerate(request["references"], start=1):
        references.append({**one, "image": {**one["image"], "source": f"The reference {number}"}})
    return {**request, "target": {**request["target"], "source": "The target"}, "references": references}


def checked(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A label map that the server sent. Raises Problem when it is none of that shape."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        array = None
    if array is None or array.shape != tuple(shape) or array.dtype.kind != "u":
        raise Problem(
            _("The server sent something that is no label map of this target"),
            _("Bring server and extension to the same version"),
            "BrokenProtocol",
        )
    return np.asarray(array)


def main() -> int:
    channel, sys.stdout = sys.stdout, sys.stderr
    patience = float(os.environ.get(PATIENCE, "60"))
    try:
        client = HttpClient(os.environ[ADDRESS], os.environ.pop(TOKEN, ""), patience=patience)
    except Problem as problem:
        message = {"event": "error", "job": None, "kind": problem.kind, "message": problem.message}
        channel.write(protocol.encoded({**message, "hint": problem.hint, "trace": ""}).decode())
        channel.flush()
        return 2
    worker = RemoteWorker(channel, client)
    threading.Thread(target=worker.read, args=(sys.stdin,), daemon=True).start()
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
