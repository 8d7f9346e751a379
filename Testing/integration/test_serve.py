"""`rau serve` with a real model: the same voxels as elsewhere, a server that is killed, nothing of the patient."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from integration.worker_side import job_message

from rau.cli import main
from rau.demo import write_image
from rau.errors import Cancelled, InputError
from rau.events import SliceEvent, StageEvent
from rau.export.writing import write_labels
from rau.settings import SegmentSettings
from rau.volume.labels import read_labels
from rau.worker.http_answers import RemoteError, ServerGone
from rau.worker.http_client import HttpWorker
from RAUSlicerLib.http_client import HttpClient

pytest.importorskip("sam2")

PATIENT = "Doe^Jane"


class ServeProcess:
    """`rau serve` as a user starts it; its temporary files lie in `temporary`."""

    def __init__(self, folder: Path, environment: dict[str, str], model: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.log = folder / "log"
        command = [sys.executable, "-m", "rau.cli", "serve", "--port", "0", "--token-file", str(folder / "token")]
        own = {**environment, "RAU_MODELS": str(model.parent), "TMPDIR": str(self.temporary)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=own, text=True)
        assert self.process.stdout
        self.url = self.process.stdout.readline().split()[-1]
        self.token = (folder / "token").read_text().strip()

    def client(self, **more) -> HttpWorker:
        return HttpWorker(self.url, self.token, **more)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


def own_folders(server: ServeProcess) -> list[str]:
    return sorted(path.name for path in server.temporary.iterdir() if path.name.startswith("rau"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, environment, random_model) -> Iterator[ServeProcess]:
    started = ServeProcess(tmp_path_factory.mktemp("server"), environment, random_model)
    yield started
    started.end()
    assert own_folders(started) == [], "the private folder goes with the server"


FAST = {"planes": "acquisition", "registration": "off", "adaptation": "off"}
CHOSEN = SegmentSettings(model="random", device="cpu", threads=1, **FAST)


@pytest.mark.slow
def test_command_line_worker_and_both_http_clients_find_the_same_voxels(
    server, worker, pair, random_model, tmp_path, monkeypatch
):
    reference, (target, _) = pair
    write_image(reference.image, tmp_path / "reference.nii.gz")
    write_labels(reference.labels, tmp_path / "labels.seg.nrrd")
    write_image(target, tmp_path / "target.nii.gz")
    monkeypatch.setenv("RAU_MODELS", str(random_model.parent))
    call = ["segment", "--reference", tmp_path / "reference.nii.gz", "--labels", tmp_path / "labels.seg.nrrd"]
    call += ["--target", tmp_path / "target.nii.gz", "--output", tmp_path / "out.nrrd", "--model", "random"]
    call += ["--device", "cpu", "--threads", "1"]
    call += [part for name, value in FAST.items() for part in (f"--{name}", value)]
    assert main([str(part) for part in call]) == 0
    expected = read_labels(tmp_path / "out.nrrd").array
    assert expected.any()

    told = []
    with server.client() as client:
        result = client.segment([reference], target, CHOSEN, on_event=told.append, previews=True)
    assert np.array_equal(result.labels.array, expected)
    assert result.found
    assert [s.structure for s in result.structures] == list(reference.structures)
    assert len(result.slices) == 10
    assert result.provenance["versions"]["model"]["name"] == "random"
    assert {"read", "segment"} <= {event.stage for event in told if isinstance(event, StageEvent)}
    previews = [event for event in told if isinstance(event, SliceEvent)]
    assert [one.done for one in previews] == list(range(1, 11))
    assert all(one.labels is not None and one.labels.shape == (48, 48) for one in previews)

    folder = tmp_path / "arrays"
    folder.mkdir()
    message = job_message(folder, 1, reference, target, **CHOSEN.model_dump(mode="json"))
    panel = HttpClient(server.url, server.token)
    job = panel.make()
    for path in sorted(folder.glob("*.npy")):
        panel.upload(job, path)
    panel.submit(job, message)
    assert [event["event"] for event in panel.events(job) if event][-1] == "done"
    panel.fetch(job, "result", tmp_path / "panel.npy")
    panel.forget(job)
    assert np.array_equal(np.load(tmp_path / "panel.npy", allow_pickle=False), expected)

    worker.send(op="hello", protocol=1, folder=str(folder))
    worker.send(**{**message, "settings": {**message["settings"], "model": str(random_model)}})
    last = worker.until("done", "error")[-1]
    assert last["event"] == "done", last
    assert np.array_equal(np.load(folder / "result-1.npy", allow_pickle=False), expected)


def test_a_stop_comes_between_slices_and_the_model_stays_loaded(server, pair):
    reference, (target, _) = pair
    seen = []
    with server.client() as client:
        client.segment([reference], target, CHOSEN)
        with pytest.raises(Cancelled):
            client.segment(
                [reference],
                target,
                CHOSEN.model_copy(update={"planes": "all"}),
                on_event=seen.append,
                should_stop=lambda: any(isinstance(event, SliceEvent) for event in seen),
            )
        told = []
        assert client.segment([reference], target, CHOSEN, on_event=told.append).found
    assert "load" not in [event.stage for event in told if isinstance(event, StageEvent)]


def test_nothing_of_the_patient_is_in_logs_file_names_or_errors(server, pair):
    """Names come in by the file name and by a structure; errors are provoked."""
    reference, (target, _) = pair
    named = replace(target, source=f"{PATIENT}.nii.gz")
    first = replace(reference.labels.structures[0], name=f"{PATIENT} tumour")
    labels = replace(reference.labels, structures=(first, *reference.labels.structures[1:]))
    spoiled = replace(reference, labels=labels)
    seen: set[str] = set()

    def look(event: object) -> None:
        seen.update(str(path) for path in server.temporary.rglob("*"))

    with server.client() as client:
        result = client.segment([spoiled], named, CHOSEN, on_event=look)
        assert result.structures[0].structure.name == f"{PATIENT} tumour", "the client gets its own names back"
        constant = replace(named, array=np.zeros_like(target.array))
        with pytest.raises(InputError, match="The target is constant") as caught:
            client.segment([spoiled], constant, CHOSEN)
    assert any("result.npy" in path for path in seen), "it was looked at during the run"
    log = server.log.read_text()
    assert "done" in log and "error" in log
    for text in (*seen, log, str(caught.value)):
        assert PATIENT not in text and "Jane" not in text
    assert not list(server.temporary.rglob("*.npy")), "what was sent is gone"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_server_that_is_killed_is_told_what_it_left_goes_and_the_next_one_works(
    tmp_path, environment, random_model, pair
):
    reference, (target, _) = pair
    first = ServeProcess(tmp_path, environment, random_model)
    children: list[psutil.Process] = []

    def kill(event: object) -> None:
        if isinstance(event, SliceEvent) and first.process.poll() is None:
            children.extend(psutil.Process(first.process.pid).children(recursive=True))
            first.process.kill()
            first.process.wait()

    start = time.perf_counter()
    with first.client(patience=1.0) as client, pytest.raises(ServerGone) as caught:
        client.segment([reference], target, CHOSEN.model_copy(update={"planes": "all"}), on_event=kill)
    first.process.stdout.close()
    assert "does not answer" in caught.value.message
    assert "rau serve" in caught.value.hint and "run again" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 60
    assert children and not psutil.wait_procs(children, timeout=20)[1], "the worker ends without its server"
    assert own_folders(first), "a kill leaves the folder behind"
    second = ServeProcess(tmp_path, environment, random_model)
    (left,) = own_folders(second)
    assert left.startswith(f"rau-serve-{second.process.pid}-")
    assert second.token == first.token
    with second.client() as client:
        assert client.hello()["protocol"] == 1
    second.end()
    assert second.process.returncode == -signal.SIGTERM
    assert own_folders(second) == []


def test_other_computers_are_let_in_only_when_told_so(capsys, tmp_path):
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pixels would leave" in line and "--allow-remote" in line
    (tmp_path / "token").write_text("x" * 20)
    (tmp_path / "token").chmod(0o644)
    if os.name == "posix":
        assert main(["serve", "--port", "0", "--token-file", str(tmp_path / "token")]) == 2
        assert "Others can read" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_with_allow_remote_it_says_that_pixels_leave_and_ctrl_c_ends_it(environment):
    command = [sys.executable, "-m", "rau.cli", "serve", "--host", "0.0.0.0", "--port", "0", "--allow-remote"]
    with tempfile.TemporaryDirectory() as temporary:
        own = {**environment, "TMPDIR": temporary}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own, text=True)
        assert process.stdout
        address = process.stdout.readline()
        address = address.split()[-1].replace("0.0.0.0", "127.0.0.1")
        with HttpWorker(address, "wrong") as client, pytest.raises(RemoteError, match="token"):
            client.hello()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Token, shown this once: " in said
        assert "leave the computers that they come from" in said and "unencrypted" in said
        assert said.splitlines()[-1] == "Cancelled"
        assert not list(Path(temporary).glob("rau*"))
