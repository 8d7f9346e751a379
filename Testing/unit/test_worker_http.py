"""`rau serve` without a model: who is let in, what is taken, what is refused, events, queue, expiry, both clients."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from http_side import TOKEN, BreakingLine, Served

from builders import phantom
from rau.commands.serve import token_of
from rau.errors import Cancelled, InputError
from rau.events import SliceEvent
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.worker import http_jobs, http_runner
from rau.worker.http_answers import RemoteError, ServerGone, image_of, structures_of
from rau.worker.http_client import HttpWorker
from rau.worker.http_guard import Guard, host_of
from RAUSlicerLib.http_client import HttpClient
from RAUSlicerLib.problems import Problem

IMAGE, LABELS = phantom()


@pytest.fixture(scope="module")
def server():
    with Served(upload=1 << 20, jobs=1000) as started:
        yield started


def npy(array, pickled=False):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def make(server):
    return server.client.post("/v1/jobs").raise_for_status().json()["job"]


def put(server, job, name, content):
    return server.client.put(f"/v1/jobs/{job}/arrays/{name}", content=content)


def message(prompt="", **settings):
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


def begin(server, prompt="", **settings):
    """A job under way; its name."""
    job = make(server)
    put(server, job, "target.npy", npy(IMAGE.array)).raise_for_status()
    put(server, job, "labels.npy", npy(LABELS.array)).raise_for_status()
    server.client.post(f"/v1/jobs/{job}/segment", json=message(prompt, **settings)).raise_for_status()
    return job


def events(server, job, after=0):
    text = server.client.get(f"/v1/jobs/{job}/events", params={"after": after}).raise_for_status().text
    return [json.loads(line) for line in text.splitlines() if line]


def refused(response, status, *words):
    """One object with one line that has the words."""
    assert response.status_code == status, response.text
    told = response.json()
    assert told["event"] == "error" and "\n" not in told["message"] + told["hint"]
    for word in words:
        assert word in told["message"] + " " + told["hint"], told
    return told


# -- who is let in
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"])
def test_without_the_token_nothing_is_answered_but_401_and_one_line(server, given):
    for method, path in (("POST", "/v1/hello"), ("GET", "/v1/jobs/x/result"), ("GET", "/nothing"), ("PUT", "/v1/jobs")):
        response = httpx.request(method, server.url + path, headers={b"Authorization": given.encode("latin-1")})
        refused(response, 401, "token")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("header", "host"),
    [("127.0.0.1:80", "127.0.0.1"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("Evil.com:1", "evil.com"), ("", "")],
)
def test_the_host_of_a_header(header, host):
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("host", "local", "remote"),
    [
        ("127.0.0.1", True, True),
        ("localhost", True, True),
        ("::1", True, True),
        ("10.1.2.3", False, True),
        ("gpu.clinic", True, True),
        ("evil.com", False, False),
        ("localhost.evil.com", False, False),
        ("127.0.0.1.evil.com", False, False),
        ("", False, False),
    ],
)
def test_a_name_that_was_rebound_to_this_computer_is_refused(host, local, remote):
    async def app(scope, receive, send):
        raise AssertionError

    for allowed, expected in ((False, local), (True, remote)):
        assert Guard(app, "t", frozenset({"GPU.clinic"}), allowed, 1).called_rightly(host) == expected


def test_a_page_of_another_site_is_refused_and_gets_no_permission(server):
    refused(server.client.post("/v1/jobs", headers={"Host": "evil.com"}), 421, "name")
    asked = {"Origin": "http://evil.com", "Access-Control-Request-Method": "POST"}
    for response in (server.client.options("/v1/jobs", headers=asked), server.client.post("/v1/jobs", headers=asked)):
        assert not [name for name in response.headers if name.startswith("access-control")]


# -- what is taken
def test_too_large_is_refused_before_it_is_sent(server):
    job = make(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        head = f"PUT /v1/jobs/{job}/arrays/a.npy HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        line.sendall(f"{head}Content-Length: {1 << 40}\r\n\r\n".encode())
        answer = ""
        while not answer.endswith("}"):
            answer += line.recv(1 << 16).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "--max-upload-mb" in answer
    refused(server.client.put(f"/v1/jobs/{job}/arrays/a.npy", content=iter([b"x"])), 411, "size")
    refused(server.client.post("/v1/jobs", content=b" " * (5 << 20)), 413)


def test_the_arrays_of_a_job_count_together_and_a_new_one_in_place_of_the_old(server):
    job, half = make(server), npy(np.zeros((1, 600, 1000), np.uint8))
    assert put(server, job, "a.npy", half).status_code == 201
    refused(put(server, job, "b.npy", half), 413, "1 MB")
    assert put(server, job, "a.npy", half).status_code == 201


@pytest.mark.parametrize(
    "content",
    [
        npy(np.array([[[{}]]], dtype=object), pickled=True),
        npy(np.zeros((2, 2, 2), "U3")),
        npy(np.zeros((2, 2, 2), complex)),
        npy(np.zeros(5)),
        npy(np.zeros((4, 4, 4)))[:-8],
        npy(np.zeros((2, 2, 2))).replace(b"(2, 2, 2)", b"(9, 9, 9)"),
        b"\x93NUMPY\x01\x00\xff\xffx",
        b"PK\x03\x04 no array",
        b"",
    ],
)
def test_what_is_no_array_of_numbers_is_refused_and_not_kept(server, content):
    job = make(server)
    refused(put(server, job, "a.npy", content), 422, "a.npy")
    assert list((server.root / job).iterdir()) == []


@pytest.mark.parametrize("name", [".hidden.npy", "a.txt", "a b.npy", "..%2Fa.npy", "%2Ftmp%2Fa.npy", "a%00.npy"])
def test_names_that_lead_elsewhere_are_refused(server, name):
    job = make(server)
    before = sorted(server.root.rglob("*"))
    assert put(server, job, name, npy(IMAGE.array)).status_code in (404, 405, 422)
    assert sorted(server.root.rglob("*")) == before


def test_an_upload_that_breaks_off_leaves_nothing(server):
    job = make(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        head = f"PUT /v1/jobs/{job}/arrays/a.npy HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        line.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + b"x" * 1000)
        wait_for(lambda: list((server.root / job).iterdir()))
    wait_for(lambda: not list((server.root / job).iterdir()))
    assert put(server, job, "a.npy", npy(IMAGE.array)).status_code == 201


def test_a_model_is_named_never_a_path_of_the_server(server, tmp_path):
    job = make(server)
    put(server, job, "target.npy", npy(IMAGE.array))
    for model in (str(tmp_path), "../rau-mini", "no-such-model"):
        told = refused(server.client.post(f"/v1/jobs/{job}/segment", json=message(model=model)), 422, "rau-mini")
        assert model not in told["message"] + told["hint"]


def test_no_client_names_a_bank_of_the_server(server, tmp_path):
    job = make(server)
    put(server, job, "target.npy", npy(IMAGE.array))
    told = refused(server.client.post(f"/v1/jobs/{job}/segment", json={**message(), "bank": str(tmp_path)}), 422)
    assert "bank" in told["message"] and str(tmp_path) not in told["message"] + told["hint"]


def test_messages_that_are_not_of_the_protocol_are_one_line(server):
    job = make(server)
    for content in (b"no json", b"[]", b'{"op":"quit"}', b"\xff\xfe", json.dumps(message(neighbours=99)).encode()):
        refused(server.client.post(f"/v1/jobs/{job}/segment", content=content), 422)
    refused(server.client.post("/v1/hello", json={"op": "hello", "protocol": 9, "folder": ""}), 422, "protocol 1")
    refused(server.client.get("/v1/nothing"), 404)
    refused(server.client.get(f"/v1/jobs/{job}/events", params={"after": "x"}), 422)
    refused(server.client.get("/v1/jobs/unknown/events"), 404, "Run again")


def test_files_are_for_the_owner_alone(server):
    job = make(server)
    put(server, job, "target.npy", npy(IMAGE.array))
    if os.name == "posix":
        for folder in (server.root, server.root / job):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((server.root / job / "target.npy").stat().st_mode) == 0o600


# -- runs
def test_events_are_numbered_and_those_after_a_number_come_again(server):
    job = begin(server, "slices 4 0")
    told = events(server, job)
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert [event["event"] for event in told] == ["slice"] * 4 + ["done"]
    assert events(server, job, 3) == told[3:]
    assert events(server, job, 5) == []
    refused(server.client.get(f"/v1/jobs/{job}/events", params={"after": 6}), 400)
    result = np.load(io.BytesIO(server.client.get(f"/v1/jobs/{job}/result").content), allow_pickle=False)
    assert np.array_equal(result, (IMAGE.array + 1).astype(np.uint16))
    plane = np.load(io.BytesIO(server.client.get(f"/v1/jobs/{job}/slices/1/3").content), allow_pickle=False)
    assert np.array_equal(plane, result[:, 3])
    refused(server.client.get(f"/v1/jobs/{job}/slices/1/99"), 404)


def test_a_message_sent_again_is_the_same_job_and_another_one_is_refused(server):
    job = begin(server)
    assert server.client.post(f"/v1/jobs/{job}/segment", json=message()).status_code == 202
    refused(server.client.post(f"/v1/jobs/{job}/segment", json=message("other")), 409)
    refused(put(server, job, "more.npy", npy(IMAGE.array)), 409, "begun")
    assert [event["event"] for event in events(server, job)].count("done") == 1


def test_one_run_at_a_time_the_others_wait_and_are_told(server):
    first, second, third = (begin(server, "slices 8 0.05") for _ in range(3))
    refused(server.client.get(f"/v1/jobs/{second}/result"), 409)
    server.client.post(f"/v1/jobs/{third}/cancel").raise_for_status()
    told = events(server, third)
    assert [event["event"] for event in told] == ["stage", "cancelled"], "at once, while it waits"
    assert "2 other runs" in told[0]["message"]
    assert events(server, second)[0]["message"] == "waiting for 1 other run"
    assert events(server, first)[-1]["event"] == "done"
    assert events(server, second)[-1]["event"] == "done"


def test_a_worker_that_dies_is_told_and_the_next_run_has_a_new_one(server):
    job = begin(server, "die")
    last = events(server, job)[-1]
    assert (last["kind"], last["event"]) == ("WorkerEnded", "error")
    assert "Run again" in last["hint"]
    assert events(server, begin(server))[-1]["event"] == "done"


def test_a_worker_that_does_not_hear_a_cancel_is_killed(server, monkeypatch):
    monkeypatch.setattr(http_runner, "CANCEL_SECONDS", 0.2)
    job = begin(server, "deaf")
    wait_for(lambda: state(server, job) == "running")
    time.sleep(0.1)
    server.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert events(server, job)[-1]["event"] == "cancelled"
    assert events(server, begin(server))[-1]["event"] == "done"


def state(server, job):
    return server.app.app.router.lifespan_context.__self__.jobs.get(job).state


def test_a_job_that_is_forgotten_while_it_runs_stops_and_its_files_go(server):
    job = begin(server, "slices 100 0.05")
    server.client.delete(f"/v1/jobs/{job}").raise_for_status()
    assert not (server.root / job).exists()
    refused(server.client.get(f"/v1/jobs/{job}/events"), 404)


# -- what goes by itself
def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_jobs_expire_with_their_files_and_everything_goes_with_the_server():
    with Served(keep=0.3, jobs=2) as server:
        job = begin(server)
        assert events(server, job)[-1]["event"] == "done"
        make(server)
        refused(server.client.post("/v1/jobs"), 503, "Try again")
        wait_for(lambda: not (server.root / job).exists())
        refused(server.client.get(f"/v1/jobs/{job}/events"), 404)
        root = server.root
        begin(server)
    assert not root.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")
def test_what_a_killed_server_left_behind_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, living = tmp_path / f"rau-serve-{dead.pid}-x", tmp_path / f"rau-serve-{os.getpid()}-y"
    for folder in (left / "job", living, tmp_path / "rau-serve-notes-z"):
        folder.mkdir(parents=True)
    http_jobs.remove_abandoned(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([living.name, "rau-serve-notes-z"])


# -- the token's file
def test_the_token_file_is_made_for_its_owner_and_read_again(tmp_path):
    token, name = token_of(tmp_path / "token")
    assert name == "token" and len(token) > 30
    assert (tmp_path / "token").read_text().strip() == token == token_of(tmp_path / "token")[0]
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        (tmp_path / "token").chmod(0o644)
        with pytest.raises(InputError, match="Others can read"):
            token_of(tmp_path / "token")
    (tmp_path / "short").write_text("secret")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(InputError, match="no token"):
        token_of(tmp_path / "short")
    with pytest.raises(InputError, match="cannot be"):
        token_of(tmp_path / "none" / "token")


# -- the clients
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
