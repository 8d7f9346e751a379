"""A server of `rau.worker.http` in this process, with a stand-in for the model, what clients ask of it, and a line that
breaks."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from builders import phantom
from rau.worker.http import make_app
from rau.worker.http_answers import image_of, structures_of
from rau.worker.http_jobs import Limits

IMAGE, LABELS = phantom()
TOKEN = "a-token-for-tests-0123"

# Speaks the protocol without torch. What it does is in the prompt of the settings:
# "slices N SECONDS": N slices, that far apart; "die"; "deaf": does not hear a cancel; "short KIND": has not enough of
# that. The result is the target plus 1.
STAND_IN = r"""
import json, os, queue, sys, threading, time
import numpy as np
lines, cancelled, folder = queue.Queue(), set(), ""
def read():
    for line in sys.stdin:
        message = json.loads(line)
        (cancelled.add(message["job"]) if message["op"] == "cancel" else lines.put(message))
    os._exit(0)
threading.Thread(target=read, daemon=True).start()
def send(**event):
    print(json.dumps(event), flush=True)
while True:
    message = lines.get()
    if message["op"] == "hello":
        folder = message["folder"]
        send(event="ready", protocol=1, versions={"rau": "0", "pid": os.getpid()}, device="cpu")
        continue
    job, words = message["job"], message["settings"]["prompt"].split() or ["slices", "3", "0"]
    if words[0] == "die":
        os._exit(9)
    if words[0] == "deaf":
        time.sleep(60)
    if words[0] == "short":
        send(event="error", job=job, kind=words[1], message="Of this computer", hint="Here", exit_code=2, trace="")
        continue
    target = np.load(os.path.join(folder, message["target"]["array"]), allow_pickle=False)
    np.save(os.path.join(folder, message["result"]), (target + 1).astype(np.uint16))
    last = {"event": "done", "report": {"structures": [], "slices": [], "warnings": [], "seconds": 1.0,
            "provenance": {"pid": os.getpid()}}}
    for k in range(int(words[1])):
        if job in cancelled:
            last = {"event": "cancelled"}
            break
        send(event="slice", job=job, done=k + 1, total=int(words[1]), index=0, axis=0, has_labels=True, score=1, ms=1)
        time.sleep(float(words[2]))
    send(job=job, **last)
"""


class Served:
    """`with Served() as server`: the application under uvicorn at a free port of this computer."""

    def __init__(self, **limits: Any) -> None:
        self.more = {name: limits.pop(name) for name in ("names", "remote") if name in limits}
        self.app = make_app(TOKEN, limits=Limits(**limits), command=(sys.executable, "-c", STAND_IN), **self.more)

    def __enter__(self) -> Served:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, lifespan="on", ws="none"))
        self.server.config.timeout_graceful_shutdown = 1
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False)
        self.client.post("/v1/hello", json={"op": "hello", "protocol": 1, "folder": ""}).raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        self.listening.close()
        assert not self.thread.is_alive()

    @property
    def root(self) -> Path:
        """The private folder of its jobs."""
        from fastapi import FastAPI

        assert isinstance(self.app.app, FastAPI)
        return self.app.app.router.lifespan_context.__self__.jobs.root  # type: ignore[attr-defined]


class BreakingLine:
    """A line to a server that breaks after so many bytes of answers, `times` times, then holds."""

    def __init__(self, port: int, after: int, times: int) -> None:
        self.target, self.after, self.left = port, after, times
        self.broken = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while piece := near.recv(1 << 16):
                far.sendall(piece)
            far.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        passed = 0
        try:
            while piece := far.recv(1 << 10):
                if self.left and passed + len(piece) > self.after:
                    self.left -= 1
                    self.broken += 1
                    near.sendall(piece[: self.after - passed])
                    break
                passed += len(piece)
                near.sendall(piece)
        except OSError:
            pass
        for one in (near, far):
            with contextlib.suppress(OSError):  # a close alone does not reach who is reading
                one.shutdown(socket.SHUT_RDWR)
            one.close()


# -- what a client asks, without a client
def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def make(server: Served) -> str:
    found: str = server.client.post("/v1/jobs").raise_for_status().json()["job"]
    return found


def put(server: Served, job: str, name: str, content: bytes) -> httpx.Response:
    return server.client.put(f"/v1/jobs/{job}/arrays/{name}", content=content)


def message(prompt: str = "", **settings: Any) -> dict[str, Any]:
    return {
        "op": "segment",
        "job": 0,
        "target": image_of(IMAGE, "target.npy", "The target"),
        "references": [
            {
                "image": image_of(IMAGE, "target.npy", "The reference"),
                "labels": {"array": "labels.npy"},
                "structures": structures_of(LABELS),
            }
        ],
        "settings": {"prompt": prompt, **settings},
        "result": "result.npy",
    }


def begin(server: Served, prompt: str = "", **settings: Any) -> str:
    """A job under way; its name."""
    job = make(server)
    put(server, job, "target.npy", npy(IMAGE.array)).raise_for_status()
    put(server, job, "labels.npy", npy(LABELS.array)).raise_for_status()
    server.client.post(f"/v1/jobs/{job}/segment", json=message(prompt, **settings)).raise_for_status()
    return job


def events(server: Served, job: str, after: int = 0) -> list[dict[str, Any]]:
    text = server.client.get(f"/v1/jobs/{job}/events", params={"after": after}).raise_for_status().text
    return [json.loads(line) for line in text.splitlines() if line]


def refused(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """One object with one line that has the words."""
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()
    assert told["event"] == "error" and "\n" not in told["message"] + told["hint"]
    for word in words:
        assert word in told["message"] + " " + told["hint"], told
    return told


def state(server: Served, job: str) -> str:
    found: str = server.app.app.router.lifespan_context.__self__.jobs.get(job).state  # type: ignore[attr-defined]
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
