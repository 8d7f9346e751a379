"""Both clients of `rau serve` against a server without a model: results, broken lines, what they say on failure."""

from __future__ import annotations

import errno
import json
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from http_side import IMAGE, LABELS, TOKEN, BreakingLine, Served, begin, events, message, npy

from rau.errors import Cancelled, InputError
from rau.events import SliceEvent
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.worker.http_answers import RemoteError, ServerGone
from rau.worker.http_client import HttpWorker
from RAUSlicerLib.http_client import HttpClient
from RAUSlicerLib.problems import Problem


@pytest.fixture(scope="module")
def server():
    with Served(upload=1 << 20, jobs=1000) as started:
        yield started


def segment(url, prompt="", token=TOKEN, patience=20.0, **more):
    with HttpWorker(url, token, patience=patience) as client:
        return client.segment([Reference(IMAGE, LABELS)], IMAGE, SegmentSettings(prompt=prompt), **more)


def test_the_client_gives_a_result_and_fetches_previews(server):
    told = []
    result = segment(server.url, on_event=told.append, previews=True)
    assert np.array_equal(result.labels.array, (IMAGE.array + 1).astype(np.uint16))
    assert result.labels.geometry.matches(IMAGE.geometry)
    slices = [event for event in told if isinstance(event, SliceEvent)]
    assert [one.done for one in slices] == [1, 2, 3]
    assert all(np.array_equal(one.labels, result.labels.array[0]) for one in slices)


@pytest.mark.parametrize("after", [400, 700])
def test_a_line_that_breaks_again_and_again_is_resumed_and_no_event_is_lost_or_told_twice(server, after):
    line = BreakingLine(server.port, after, 6)
    told = []
    try:
        result = segment(line.url, "slices 12 0.01", on_event=told.append)
    finally:
        line.close()
    assert line.broken == 6
    assert [event.done for event in told] == list(range(1, 13))
    assert np.array_equal(result.labels.array, (IMAGE.array + 1).astype(np.uint16))


def test_the_run_goes_on_while_nobody_listens(server):
    job = begin(server, "slices 10 0.03")
    with server.client.stream("GET", f"/v1/jobs/{job}/events") as response:
        first = next(line for line in response.iter_lines() if line)
    time.sleep(0.8)
    start = time.perf_counter()
    rest = events(server, job, json.loads(first)["seq"])
    assert time.perf_counter() - start < 0.4, "it was done already"
    assert [event["seq"] for event in rest] == list(range(2, 12))


def test_a_stop_reaches_the_server(server):
    seen = []
    with pytest.raises(Cancelled):
        segment(server.url, "slices 200 0.02", on_event=seen.append, should_stop=lambda: len(seen) > 2)
    assert len(seen) < 100


def test_what_the_client_says_when_it_cannot(server):
    with pytest.raises(RemoteError, match="token is missing or wrong"):
        segment(server.url, token="wrong")
    with pytest.raises(RemoteError, match="ended unexpectedly") as caught:
        segment(server.url, "die")
    assert caught.value.kind == "WorkerEnded"
    with pytest.raises(InputError, match="takes 1 MB"), HttpWorker(server.url, TOKEN) as client:
        large = type(IMAGE)(np.resize(IMAGE.array, (10, 400, 400)), type(IMAGE.geometry)((10, 400, 400)))
        client.segment([Reference(IMAGE, LABELS)], large)
    with pytest.raises(InputError, match="pixels leave"):
        HttpWorker("http://gpu.clinic:8417", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerGone, match="does not answer") as gone:
        segment(f"http://127.0.0.1:{port}", patience=0.2)
    assert "rau serve" in gone.value.hint


def test_the_panels_client_does_the_same_with_pythons_own_modules(server, tmp_path):
    np.save(tmp_path / "target.npy", IMAGE.array)
    np.save(tmp_path / "labels.npy", LABELS.array)
    line = BreakingLine(server.port, 600, 4)
    client = HttpClient(line.url, TOKEN)
    assert client.hello()["limits"]["upload"] == 1 << 20
    job = client.make()
    for name in ("target.npy", "labels.npy"):
        client.upload(job, tmp_path / name)
    client.submit(job, {k: v for k, v in message("slices 9 0.01").items() if k not in ("op", "job")})
    told = [event for event in client.events(job) if event]
    assert [event["seq"] for event in told] == list(range(1, 11))
    client.fetch(job, "slices/0/2", tmp_path / "slice.npy")
    client.fetch(job, "result", tmp_path / "result.npy")
    result = np.load(tmp_path / "result.npy", allow_pickle=False)
    assert np.array_equal(result, (IMAGE.array + 1).astype(np.uint16))
    assert np.array_equal(np.load(tmp_path / "slice.npy", allow_pickle=False), result[2])
    assert line.broken == 4
    client.forget(job)
    with pytest.raises(Problem, match="does not know this job"):
        list(client.events(job))
    line.close()


def test_a_full_disk_of_our_own_is_no_lost_server(server, small_disk):
    """Told at once, not after a minute of asking the server again."""
    disk = small_disk("64k")
    job = begin(server)
    events(server, job)
    client = HttpClient(server.url, TOKEN, patience=60.0)
    with suppress(OSError):
        (disk / "others").write_bytes(b"x" * (64 << 10))
    start = time.perf_counter()
    with pytest.raises(OSError) as told:
        client.fetch(job, "result", disk / "result.npy")
    assert told.value.errno == errno.ENOSPC and time.perf_counter() - start < 5
    with pytest.raises(FileNotFoundError):
        client.upload(client.make(), disk / "gone.npy")


def test_the_panels_client_says_what_is_wrong(server, tmp_path):
    with pytest.raises(Problem, match="token"):
        HttpClient(server.url, "wrong").hello()
    with pytest.raises(Problem, match="address"):
        HttpClient("gpu.clinic", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Problem, match="does not answer") as gone:
        HttpClient(f"http://127.0.0.1:{port}", TOKEN, patience=0.0).hello()
    assert gone.value.kind == "ServerGone"
    client = HttpClient(server.url, TOKEN)
    job = client.make()
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(Problem, match="bad.npy"):
        client.upload(job, Path(tmp_path / "bad.npy"))
    (tmp_path / "big.npy").write_bytes(npy(np.zeros((2, 1000, 1000), np.uint8)))
    with pytest.raises(Problem):
        client.upload(job, tmp_path / "big.npy")
