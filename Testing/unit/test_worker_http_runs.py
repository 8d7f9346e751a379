"""`rau serve` without a model: events, the queue, workers that die, what goes by itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from http_side import IMAGE, Served, begin, events, make, message, npy, put, refused, state, wait_for

from rau.worker import http_jobs, http_runner


@pytest.fixture(scope="module")
def server():
    with Served(upload=1 << 20, jobs=1000) as started:
        yield started


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


@pytest.mark.parametrize(
    ("kind", "words"), [("DiskFull", "disk of the server"), ("OutOfMemory", "memory of the server")]
)
def test_what_the_server_has_not_enough_of_is_told_as_the_servers_and_the_next_run_works(server, kind, words):
    last = events(server, begin(server, f"short {kind}"))[-1]
    assert last["kind"] == kind and words in last["message"] and "Here" not in last["hint"]
    assert events(server, begin(server))[-1]["event"] == "done"


def test_a_server_whose_disk_is_full_refuses_an_upload_keeps_nothing_of_it_and_goes_on(small_disk, monkeypatch):
    disk = small_disk("300k")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with Served() as server:
        job = make(server)
        (disk / "others").write_bytes(b"x" * (200 << 10))
        refused(
            put(server, job, "target.npy", npy(np.zeros((4, 200, 200), np.uint8))), 507, "disk of the server is full"
        )
        assert list((server.root / job).iterdir()) == []
        (disk / "others").unlink()
        assert put(server, job, "target.npy", npy(IMAGE.array)).status_code == 201


def test_a_worker_that_does_not_hear_a_cancel_is_killed(server, monkeypatch):
    monkeypatch.setattr(http_runner, "CANCEL_SECONDS", 0.2)
    job = begin(server, "deaf")
    wait_for(lambda: state(server, job) == "running")
    time.sleep(0.1)
    server.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert events(server, job)[-1]["event"] == "cancelled"
    assert events(server, begin(server))[-1]["event"] == "done"


def test_a_job_that_is_forgotten_while_it_runs_stops_and_its_files_go(server):
    job = begin(server, "slices 100 0.05")
    server.client.delete(f"/v1/jobs/{job}").raise_for_status()
    assert not (server.root / job).exists()
    refused(server.client.get(f"/v1/jobs/{job}/events"), 404)


# -- what goes by itself
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
