"""The other side of `rau serve`, for scripts: a run on another computer looks like `rau.pipeline.segment`.

The Slicer side, which has only numpy and the standard library, uses `RAUSlicerLib.http_client` instead.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from rau.errors import Cancelled, InputError, RauError
from rau.events import OnEvent, ShouldStop, ignore, never
from rau.references.reference import Reference
from rau.results import SegmentResult
from rau.settings import SegmentSettings
from rau.volume.volume import Volume
from rau.worker import protocol
from rau.worker.http_answers import ServerGone, error_of, event_of, image_of, result_of, structures_of
from rau.worker.http_jobs import LAST, LIFE_SECONDS

if TYPE_CHECKING:
    import httpx

PIECE = 1 << 20  # bytes
SILENCE = 10 * LIFE_SECONDS  # without a sign of life a connection is given up
T = TypeVar("T")


class HttpWorker:
    """A server at `url` ("http://127.0.0.1:8417").

    allow_remote: has to be said where the server is not this computer, for then pixels leave it. patience: seconds in
    which a lost connection may come back. verify: a certificate file for https, or True for the system's own.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        allow_remote: bool = False,
        timeout: float = 30.0,
        patience: float = 60.0,
        verify: str | bool = True,
    ) -> None:
        import ssl

        import httpx

        from rau.worker.http_guard import is_loopback

        self.host = httpx.URL(url).host
        if not allow_remote and not is_loopback(self.host):
            raise InputError(
                f"The images would be sent to {self.host}: pixels leave this computer", "Allow it with allow_remote"
            )
        trust = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        headers = {"Authorization": f"Bearer {token}"}
        # trust_env=False: no proxy of the environment gets to see the images
        self.client = httpx.Client(base_url=url, headers=headers, timeout=timeout, verify=trust, trust_env=False)
        self.patience = patience

    def __enter__(self) -> HttpWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def hello(self) -> dict[str, Any]:
        """Versions, device and limits of the server. Raises RemoteError (token, protocol), ServerGone."""
        message = {"op": "hello", "protocol": protocol.VERSION, "folder": ""}
        ready = self._json("POST", "/v1/hello", json=message)
        if ready.get("protocol") != protocol.VERSION:
            raise InputError("The server speaks another version of the protocol", "Bring both to the same version")
        return ready

    def segment(
        self,
        references: Sequence[Reference],
        target: Volume,
        settings: SegmentSettings | None = None,
        *,
        on_event: OnEvent = ignore,
        should_stop: ShouldStop = never,
        previews: bool = False,
    ) -> SegmentResult:
        """As `rau.pipeline.segment`. previews: fetch the labels of every slice for its event.

        Names of files do not go to the server; names of structures do. Raises InputError, ModelError, Cancelled,
        RemoteError, ServerGone.
        """
        limit = int(self.hello()["limits"]["upload"])
        job = str(self._json("POST", "/v1/jobs")["job"])
        try:
            message = self._send(job, references, target, settings or SegmentSettings(), limit)
            self._json("POST", f"/v1/jobs/{job}/segment", json=message)
            last = self._follow(job, on_event, should_stop, previews)
            if last["event"] == "cancelled":
                raise Cancelled()
            if last["event"] == "error":
                raise error_of(last)
            labels = self._array(f"/v1/jobs/{job}/result")
        finally:
            with suppress(RauError):
                self._json("DELETE", f"/v1/jobs/{job}", patience=0.0)
        if labels.shape != target.geometry.shape or labels.dtype.kind != "u":
            raise InputError("The server sent a label map of another shape", "Bring both to the same version")
        return result_of(last["report"], labels, target)

    def events(self, job: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """The events of a job after that number, to the last; {} as a sign of life. Lost connections are made again."""
        import httpx

        deadline, silence = None, httpx.Timeout(self.client.timeout.connect, read=SILENCE)
        while True:
            try:
                address = f"/v1/jobs/{job}/events?after={after}"
                with self.client.stream("GET", address, timeout=silence) as response:
                    checked(response)
                    for line in response.iter_lines():
                        event = json.loads(line) if line.strip() else {}
                        deadline, after = None, event.get("seq", after)
                        yield event
                        if event.get("event") in LAST:
                            return
            except (httpx.TransportError, json.JSONDecodeError):
                pass
            deadline = self._wait(deadline)

    def _follow(self, job: str, on_event: OnEvent, should_stop: ShouldStop, previews: bool) -> dict[str, Any]:
        """Tell the events; the last one. A wish to stop is passed on once."""
        asked = False
        for event in self.events(job):
            if not asked and should_stop():
                self._json("POST", f"/v1/jobs/{job}/cancel")
                asked = True
            if event.get("event") in LAST:
                return event
            preview = None
            if previews and event.get("has_labels"):
                preview = self._array(f"/v1/jobs/{job}/slices/{event['axis']}/{event['index']}")
            told = event_of(event, preview)
            if told is not None:
                on_event(told)
        raise self._gone()

    def _send(
        self, job: str, references: Sequence[Reference], target: Volume, settings: SegmentSettings, limit: int
    ) -> dict[str, Any]:
        """Upload the arrays; the segment message. Raises InputError when they are larger than the server takes."""
        arrays = [target.array, *(part.array for one in references for part in (one.image, one.labels))]
        size = sum(array.nbytes + 4096 for array in arrays)
        if size > limit:
            raise InputError(
                f"The images have {size / (1 << 20):.0f} MB, the server takes {limit / (1 << 20):.0f} MB",
                "Crop them, give fewer references, or have it started with a larger --max-upload-mb",
            )
        described = []
        for number, one in enumerate(references, start=1):
            image = self._image(job, f"reference-{number}", one.image)
            self._upload(job, f"labels-{number}.npy", one.labels.array)
            labels = {"array": f"labels-{number}.npy"}
            described.append({"image": image, "labels": labels, "structures": structures_of(one.labels)})
        return {
            "op": "segment",
            "job": 0,
            "target": self._image(job, "target", target),
            "references": described,
            "settings": settings.model_dump(mode="json"),
            "result": "result.npy",
        }

    def _image(self, job: str, name: str, volume: Volume) -> dict[str, Any]:
        self._upload(job, f"{name}.npy", volume.array)
        return image_of(volume, f"{name}.npy", f"The {name.replace('-', ' ')}")

    def _upload(self, job: str, name: str, array: np.ndarray) -> None:
        with tempfile.TemporaryFile() as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            headers = {"Content-Length": str(file.tell())}

            def put() -> httpx.Response:
                file.seek(0)
                return self.client.put(f"/v1/jobs/{job}/arrays/{name}", content=pieces(file), headers=headers)

            checked(self._patiently(put))

    def _array(self, address: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "array.npy"

            def get() -> httpx.Response:
                with self.client.stream("GET", address) as response:
                    if response.is_error:
                        response.read()
                    else:
                        with path.open("wb") as file:
                            for piece in response.iter_bytes(PIECE):
                                file.write(piece)
                return response

            checked(self._patiently(get))
            array: np.ndarray = np.load(path, allow_pickle=False)
        return array

    def _json(self, method: str, address: str, *, patience: float | None = None, **more: Any) -> dict[str, Any]:
        response = self._patiently(lambda: self.client.request(method, address, **more), patience)
        found: dict[str, Any] = checked(response).json()
        return found

    def _patiently(self, ask: Callable[[], T], patience: float | None = None) -> T:
        """Ask again while the connection is lost. Raises ServerGone when it does not come back."""
        import httpx

        deadline = None
        while True:
            try:
                return ask()
            except httpx.TransportError:
                deadline = self._wait(deadline, patience)

    def _wait(self, deadline: float | None, patience: float | None = None) -> float:
        """Wait a moment before the next try; until when to try. Raises ServerGone."""
        now = time.monotonic()
        deadline = now + (self.patience if patience is None else patience) if deadline is None else deadline
        if now >= deadline:
            raise self._gone() from None
        time.sleep(min(0.5, max(0.0, deadline - now)))
        return deadline

    def _gone(self) -> ServerGone:
        return ServerGone(
            f"The server at {self.host} does not answer", "Look whether rau serve runs there, then run again"
        )


def checked(response: httpx.Response) -> httpx.Response:
    """A response that is no error. Raises RemoteError; ServerGone for a job that the server does not know."""
    if not response.is_error:
        return response
    try:
        response.read()
        told = response.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or "message" not in told:
        told = {"message": f"The server answered with status {response.status_code}", "hint": "Is it rau serve?"}
    if response.status_code == 404:
        raise ServerGone(str(told["message"]), str(told.get("hint", "")))
    raise error_of(told)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece
