"""`rau serve` without a model: who is let in, what is taken, what is refused."""

from __future__ import annotations

import json
import os
import socket
import stat

import httpx
import numpy as np
import pytest
from http_side import IMAGE, TOKEN, Served, make, message, npy, put, refused, wait_for

from rau.commands.serve import token_of
from rau.errors import InputError
from rau.worker.http_guard import Guard, host_of


@pytest.fixture(scope="module")
def server():
    with Served(upload=1 << 20, jobs=1000) as started:
        yield started


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
