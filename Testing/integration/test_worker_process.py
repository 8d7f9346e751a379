"""The real worker process: same voxels as in-process, warm second job, cancel, errors, crash-free ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from integration.worker_side import WorkerProcess, job_message

from rau.volume.volume import Volume

pytest.importorskip("sam2")


def test_a_job_equals_the_pipeline_and_the_second_job_the_first(worker, tmp_path, pair, random_model):
    from rau.description.results import with_descriptions
    from rau.pipeline import segment
    from rau.settings import SegmentSettings

    reference, (target, _) = pair
    chosen = {"model": str(random_model), "device": "cpu", "threads": 1}
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    ready = worker.until("ready")[-1]
    assert ready["protocol"] == 1
    assert ready["versions"]["torch"]
    assert ready["device"] in ("cpu", "cuda")

    runs = []
    for number in (1, 2):
        worker.send(**job_message(tmp_path, number, reference, target, **chosen))
        events = worker.until("done")
        assert all(e["job"] == number for e in events)
        runs.append(events)
    stages = [[e["stage"] for e in events if e["event"] == "stage"] for events in runs]
    assert "load" in stages[0], "the first job loads the model"
    assert "load" not in stages[1], "the second finds it loaded"

    direct = with_descriptions(segment([reference], target, SegmentSettings(**chosen)), target)
    assert direct.found, "an empty result would prove nothing"
    for number, events in zip((1, 2), runs, strict=True):
        result = np.load(tmp_path / f"result-{number}.npy", allow_pickle=False)
        assert result.dtype == np.uint16
        assert np.array_equal(result, direct.labels.array)
        slices = [e for e in events if e["event"] == "slice"]
        assert [e["done"] for e in slices] == list(range(1, len(slices) + 1))
        assert {e["index"] for e in slices} == set(range(10))
        report = events[-1]["report"]
        timeless = {k: report[k] for k in ("structures", "warnings", "provenance")}
        assert timeless == {k: direct.report()[k] for k in timeless}
    assert worker.end() == 0


def test_previews_are_in_the_result_when_their_slice_is_told(worker, tmp_path, pair, random_model):
    reference, (target, _) = pair
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    np.save(tmp_path / "result-5.npy", np.full(target.array.shape, 9, np.uint16))
    message = job_message(tmp_path, 5, reference, target, model=str(random_model), planes="acquisition", threads=1)
    worker.send(**message)
    shown = 0
    while (event := worker.until("slice", "done")[-1])["event"] == "slice":
        view = np.moveaxis(np.load(tmp_path / "result-5.npy", mmap_mode="r"), event["axis"], 0)[event["index"]]
        assert event["has_labels"]
        assert 9 not in view, "the preview replaced what was there"
        shown += int(view.any())
    assert shown > 0


def test_cancel_stops_between_slices_and_the_worker_stays_useful(worker, tmp_path, pair, random_model):
    reference, (target, _) = pair
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    chosen = {"model": str(random_model), "threads": 1}
    worker.send(**job_message(tmp_path, 1, reference, target, **chosen))
    worker.until("slice")
    start = time.perf_counter()
    worker.send(op="cancel", job=1)
    events = worker.until("cancelled", "done")
    assert events[-1] == {"event": "cancelled", "job": 1}
    assert time.perf_counter() - start < 5
    worker.send(**job_message(tmp_path, 2, reference, target, **chosen))
    worker.send(op="cancel", job=3)
    worker.send(**job_message(tmp_path, 3, reference, target, **chosen))
    assert worker.until("done")[-1]["job"] == 2
    assert worker.until("cancelled", "done")[-1] == {"event": "cancelled", "job": 3}, "cancelled before it began"
    worker.send(**job_message(tmp_path, 1, reference, target, **chosen))
    assert worker.until("done", "cancelled")[-1]["event"] == "done", "a cancel does not outlive its job"


def test_the_worker_leaves_when_its_input_ends_even_in_a_job(worker, tmp_path, pair, random_model):
    reference, (target, _) = pair
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    worker.send(**job_message(tmp_path, 1, reference, target, model=str(random_model), planes="all"))
    worker.until("slice")
    start = time.perf_counter()
    assert worker.end() == 0
    assert time.perf_counter() - start < 10


LITTLE_MEMORY = """
import resource, sys
import rau.pipeline, rau.preparation, rau.models.engine, rau.sam.propagation, rau.sam.build, rau.worker.process as p
import torch, sam2, scipy.ndimage, SimpleITK, transformers.models.dinov2.modeling_dinov2
torch.set_num_threads(1)
load = rau.models.engine.load_engine
def load_then_limit(settings):
    engine = load(settings)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
    return engine
rau.models.engine.load_engine = load_then_limit
sys.exit(p.main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_out_of_memory_is_told_and_survived(environment, tmp_path, pair, random_model):
    """A real limit, set once the model is loaded; the second job is small again."""
    reference, (target, _) = pair
    large = Volume(np.resize(target.array, (300, 512, 512)), replace(target.geometry, shape=(300, 512, 512)), "CT")
    worker = WorkerProcess(environment, "-c", LITTLE_MEMORY)
    try:
        worker.send(op="hello", protocol=1, folder=str(tmp_path))
        worker.until("ready")
        chosen = {"model": str(random_model), "threads": 1}
        worker.send(**job_message(tmp_path, 1, reference, large, **chosen))
        answer = worker.until("error", "done")[-1]
        assert answer["kind"] == "OutOfMemory", answer
        assert answer["hint"]
        worker.send(**job_message(tmp_path, 2, reference, target, **chosen))
        assert worker.until("error", "done")[-1]["event"] == "done"
        assert worker.end() == 0
    finally:
        worker.process.kill()
        worker.process.wait()


def test_other_threads_load_the_engine_again(worker, tmp_path, pair, random_model):
    reference, (target, _) = pair
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    loads = []
    for job, threads in enumerate((1, 1, 2)):
        worker.send(**job_message(tmp_path, job, reference, target, model=str(random_model), threads=threads))
        loads.append([e["stage"] for e in worker.until("done") if e["event"] == "stage"].count("load"))
    assert loads == [1, 0, 1]


def test_quit_ends_the_process(worker, tmp_path):
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    worker.send(op="quit")
    assert worker.process.wait(20) == 0


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda m, f: m["target"].update(array="missing.npy"), "ProtocolError", "missing.npy"),
        (lambda m, f: m["target"].update(array="../target.npy"), "ProtocolError", "target.array"),
        (lambda m, f: m["target"]["geometry"].update(shape=[1, 2, 3]), "ProtocolError", "shape"),
        (lambda m, f: m["settings"].update(structures=["heart"]), "InputError", "heart"),
        (lambda m, f: m["settings"].update(references_per_slice=99), "SettingsError", "references_per_slice"),
        (lambda m, f: m["settings"].update(model="no-such-model"), "ModelError", "no-such-model"),
        (lambda m, f: m["references"][0].update(structures=[]), "InputError", "empty"),
        (lambda m, f: m.update(references=[]), "InputError", "No reference"),
        (lambda m, f: np.save(f / "target-1.npy", np.full((10, 48, 48), np.nan)), "InputError", "patient"),
        (lambda m, f: np.save(f / "target-1.npy", np.zeros((10, 48, 48), np.int16)), "InputError", "constant"),
        (lambda m, f: np.save(f / "labels-1.npy", np.zeros((10, 48, 48), np.uint8)), "InputError", "empty"),
        (lambda m, f: np.save(f / "labels-1.npy", np.full((10, 48, 48), -1)), "InputError", "negative"),
        (lambda m, f: np.save(f / "result-1.npy", np.zeros((10, 48, 48), np.uint8)), "ProtocolError", "result-1.npy"),
        (lambda m, f: (f / "labels-1.npy").write_bytes(b"\x93NUMPY nonsense"), "ProtocolError", "labels-1.npy"),
        (
            lambda m, f: np.save(f / "labels-1.npy", np.array([{}], dtype=object), allow_pickle=True),
            "ProtocolError",
            "labels-1.npy",
        ),
    ],
)
def test_what_cannot_be_used_is_one_event_and_no_result(serve_once, tmp_path, pair, random_model, spoil, kind, words):
    reference, (target, _) = pair
    message = job_message(tmp_path, 1, reference, target, model=str(random_model), threads=1)
    spoil(message, tmp_path)
    (answer,) = [e for e in serve_once(message) if e["event"] in ("error", "done", "cancelled")]
    assert (answer["event"], answer["job"], answer["kind"]) == ("error", 1, kind), answer
    assert words in answer["message"]
    assert answer["exit_code"] in (2, 4)
    assert answer["trace"] == ""
    assert str(tmp_path) not in str(answer)


def test_lines_that_are_no_messages_are_answered_and_survived(worker, tmp_path):
    for line in ("not json", "[1,2]", '{"op":"dance"}', '{"op":"cancel"}', "", '{"op":"segment","job":4}'):
        assert worker.process.stdin
        worker.process.stdin.write(line + "\n")
        worker.process.stdin.flush()
        if line:
            answer = worker.until("error")[-1]
            assert answer["kind"] == "ProtocolError"
            assert answer["job"] == (4 if "segment" in line else None)
    worker.send(op="hello", protocol=99, folder=str(tmp_path))
    assert "protocol" in worker.until("error")[-1]["message"]
    worker.send(op="hello", protocol=1, folder=str(tmp_path / "nowhere"))
    assert "folder" in worker.until("error")[-1]["message"]
    worker.send(op="hello", protocol=1, folder=str(tmp_path))
    worker.until("ready")
    assert worker.end() == 0


@pytest.fixture
def serve_once(tmp_path):
    """The worker's own `serve` in this process, over pipes: one job, then its events."""
    import threading

    from rau.worker.process import serve

    def run(message):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        incoming, requests = os.fdopen(to_read), os.fdopen(to_write, "w")
        answers, outgoing = os.fdopen(from_read), os.fdopen(from_write, "w")
        thread = threading.Thread(target=serve, args=(incoming, outgoing))
        thread.start()
        events = []
        with requests, answers:
            for one in ({"op": "hello", "protocol": 1, "folder": str(tmp_path)}, message):
                requests.write(json.dumps(one) + "\n")
                requests.flush()
            while not events or events[-1]["event"] not in ("error", "done", "cancelled"):
                events.append(json.loads(answers.readline()))
            requests.close()
            thread.join(20)
        assert not thread.is_alive()
        incoming.close()
        outgoing.close()
        return events

    return run


def test_what_libraries_print_does_not_reach_the_protocol(environment, tmp_path):
    """Even from C, straight to file descriptor 1."""
    noisy = (
        "import os, rau.worker.process as p\n"
        "def device():\n"
        "    print('from python'); os.write(1, b'from C'); return 'cpu'\n"
        "p.device = device\n"
        "raise SystemExit(p.main())\n"
    )
    hello = json.dumps({"op": "hello", "protocol": 1, "folder": str(tmp_path)}) + "\n"
    ran = subprocess.run([sys.executable, "-c", noisy], input=hello, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0
    (line,) = ran.stdout.splitlines()
    assert json.loads(line)["event"] == "ready"
    assert "from python" in ran.stderr
    assert "from C" in ran.stderr
