"""Strings of a seeded fake patient appear in no log, cache, file name, report or error, over the command line and the
worker. In a DICOM SEG stands what belongs there, copied from its source, and nothing else.

The hospital's folders are named after the patient too. What a user calls a file himself may be told to him.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fake_patient import leaks, patient, unpacked, write_case
from integration.worker_side import WorkerProcess, job_message

from rau.cli import main
from rau.export.writing import write_labels
from rau.references.reference import Reference
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid

pytest.importorskip("sam2")
pytest.importorskip("highdicom")
FAST = ["--device", "cpu", "--threads", "1", "--planes", "acquisition", "--registration", "off", "--adaptation", "off"]
COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientComments", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass
class Clinic:
    """A target and a reference as DICOM series of the patient, and a place for all that a run may write.

    said: the process's own standard streams, from the file descriptors up."""

    known: dict[str, str]
    files: Path
    scratch: Path
    said: Callable[[], str]

    @property
    def target(self) -> Path:
        return self.files / "target"

    def rau(self, *call: Any) -> tuple[int, str]:
        """The exit status and all that was said."""
        status = main([str(part) for part in call])
        return status, self.said()

    def segment(self, *more: Any, output: str = "out.seg.nrrd") -> tuple[int, str]:
        reference = ["--reference", self.files / "reference", "--labels", self.files / "labels.dcm"]
        call = ["segment", *reference, "--output", self.scratch / "out" / output, "--model", "random", *FAST]
        given = [] if "--target" in more else ["--target", self.target]
        return self.rau(*call, *given, *more)

    def found(self, *texts: str) -> list[str]:
        """Strings of the patient in what was said and in all that was written: results, caches, temporary files."""
        return leaks(unpacked(self.scratch) + "\n".join(texts).encode(), self.known)


@pytest.fixture
def clinic(
    tmp_path: Path, pair: Any, random_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> Iterator[Clinic]:
    known = patient(1)
    reference, (target, _) = pair
    files, scratch = tmp_path / known["PatientName"] / known["PatientID"] / "study", tmp_path / "scratch"
    write_case(files / "target", target, known)
    sources = write_case(files / "reference", reference.image, known)
    placed, _ = labels_on_grid(reference.labels, read_volume(files / "reference").geometry)
    write_labels(placed, files / "labels.dcm", source_dicom=sources)
    for name, variable in (("out", ""), ("home", "HOME"), ("temporary", "TMPDIR"), ("cache", "XDG_CACHE_HOME")):
        (scratch / name).mkdir(parents=True)
        if variable:
            monkeypatch.setenv(variable, str(scratch / name))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("RAU_MODELS", str(random_model.parent))
    capfd.readouterr()
    yield Clinic(known, files, scratch, lambda: "".join(capfd.readouterr()))


def test_runs_reports_descriptions_and_the_bank_hold_nothing_of_the_patient(clinic: Clinic) -> None:
    out = clinic.scratch / "out"
    status, said = clinic.segment("--report", out / "report.json")
    assert status == 0, said
    report = json.loads((out / "report.json").read_text())
    assert any(one["present"] for one in report["structures"]) and report["provenance"]
    told = [said]
    for output in ("plain.nii.gz", "plain.nrrd"):
        told.append(clinic.segment(output=output)[1])
    result = ["--labels", out / "out.seg.nrrd"]
    told.append(clinic.rau("describe", "--image", clinic.target, *result, "--output", out / "facts.json")[1])
    bank = clinic.scratch / "bank"
    call = ["--image", clinic.target, *result, "--report", out / "report.json", "--title", "a case"]
    status, said = clinic.rau("bank", "accept", bank, *call)
    assert status == 0, said
    told += [said, clinic.rau("bank", "list", bank, "--json")[1], clinic.rau("bank", "verify", bank)[1]]
    banked = ["--bank", bank, "--target", clinic.files / "reference", "--output", out / "banked.nrrd"]
    status, said = clinic.rau("segment", *banked, "--model", "random", *FAST)
    assert status == 0 and "from the bank" in said, said
    assert clinic.found(*told, said) == []
    written = {path.name for path in out.iterdir()}
    assert written == {"out.seg.nrrd", "report.json", "plain.nii.gz", "plain.nrrd", "facts.json", "banked.nrrd"}
    assert list((clinic.scratch / "temporary").iterdir()) == [], "no temporary file is left"


def test_a_dicom_seg_has_of_the_patient_what_its_source_says_and_only_in_its_place(clinic: Clinic) -> None:
    status, said = clinic.segment(output="out.dcm")
    assert status == 0, said
    assert leaks(said.encode(), clinic.known) == []
    path = clinic.scratch / "out" / "out.dcm"
    source, dataset = pydicom.dcmread(next(clinic.target.iterdir())), pydicom.dcmread(path)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
        assert str(dataset[keyword].value) == clinic.known[keyword]
    for element in list(dataset):
        if leaks(str(element.value).encode(), clinic.known):
            assert element.keyword in COPIED and element == source[element.tag], element.keyword
            del dataset[element.tag]
    dataset.save_as(path)
    assert clinic.found() == [], "nor in anything nested, in the preamble or in the name of the file"


def failing(clinic: Clinic, shut: Path) -> Iterator[tuple[int, str]]:
    """Every way to fail that a user meets; the exit status and what was said."""
    yield clinic.segment("--structures", "no such")
    yield clinic.segment("--target", clinic.files)
    yield clinic.segment("--model", "gone")
    yield clinic.segment(output="none/out.nrrd")
    yield clinic.segment("--model", shut)
    yield clinic.segment("--report", clinic.scratch / "out" / "none" / "report.json")
    first, *_, last = sorted(clinic.target.iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    yield clinic.segment()
    middle = sorted(clinic.target.iterdir())[4]
    first.write_bytes(whole)
    kept = middle.read_bytes()
    middle.unlink()
    yield clinic.segment()
    middle.write_bytes(kept)
    odd = pydicom.dcmread(last)
    odd.PixelSpacing, odd.PatientComments = [9.0, 9.0], clinic.known["PatientName"]
    odd.save_as(last)
    yield clinic.segment()
    for file in clinic.target.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelSpacing = [1.0, 1.0]
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.save_as(file)
    yield clinic.segment()


def test_no_failure_tells_anything_of_the_patient(
    clinic: Clinic, shut_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, said in failing(clinic, shut_model):
        assert status in (2, 3, 4), said
        (line,) = [one for one in said.splitlines() if one.startswith("rau: ")]
        assert clinic.found(said) == [], line
    import rau.pipeline

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"no room for {clinic.known['PatientName']} of {clinic.files}")

    monkeypatch.setattr(rau.pipeline, "prepare", broken, raising=False)
    monkeypatch.setattr("rau.preparation.prepare", broken)
    for file, kept in [(file, pydicom.dcmread(file)) for file in clinic.target.iterdir()]:
        kept.PixelData = np.random.default_rng(0).integers(0, 999, (kept.Rows, kept.Columns), np.uint16).tobytes()
        kept.save_as(file)
    status, said = clinic.segment()
    assert status == 1 and "unexpected" in said
    assert clinic.found(said) == [] and list((clinic.scratch / "out").iterdir()) == []


def test_a_table_of_cases_keeps_neither_names_nor_paths_of_those_that_fail(clinic: Clinic) -> None:
    rows = [
        {"reference": "reference", "labels": "labels.dcm", "target": "target", "name": "first"},
        {"reference": "reference", "labels": "labels.dcm", "target": clinic.known["PatientID"]},
        {"reference": "reference", "labels": "labels.dcm", "target": "."},
    ]
    table = clinic.files / "cases.json"
    table.write_text(json.dumps(rows))
    more = ["--output", clinic.scratch / "out", "--workers", "0", "--model", "random", *FAST]
    status, said = clinic.rau("batch", table, *more)
    assert status == 2 and "1 of 3 cases done" in said
    assert clinic.found(said) == []
    results = json.loads((clinic.scratch / "out" / "results.json").read_text())["cases"]
    assert [one["status"] for one in results] == ["done", "failed", "failed"]


def test_what_the_worker_says_to_its_log_holds_no_name(
    clinic: Clinic, pair: Any, random_model: Path, environment: dict[str, str]
) -> None:
    """The panel gives it none; should another client do so, they go back to that client alone."""
    folder = clinic.scratch / "private"
    folder.mkdir()
    reference, _ = pair
    target = read_volume(clinic.target)
    named = f"{clinic.known['PatientName']} {clinic.known['PatientID']}"
    worker = WorkerProcess({**environment, "TMPDIR": str(clinic.scratch / "temporary")})
    try:
        worker.send(op="hello", protocol=1, folder=str(folder))
        worker.until("ready")
        settings = {"model": str(random_model), "threads": 1, "planes": "acquisition", "adaptation": "off"}
        spoiled = job_message(folder, 1, reference, target, **settings)
        spoiled["target"]["source"] = named
        np.save(folder / "target-1.npy", np.zeros_like(target.array))
        worker.send(**spoiled)
        assert named in worker.until("error")[-1]["message"], "who asked is told in his own words"
        good = job_message(folder, 2, reference, target, registration="off", **settings)
        good["target"]["source"] = named
        worker.send(**good)
        last = worker.until("done", "error")[-1]
        assert last["event"] == "done", last
        case = {"image": good["target"], "labels": {"array": "result-2.npy"}, "structures": structures(reference)}
        bank, page = str(clinic.scratch / "bank"), str(clinic.scratch / "out" / "page.html")
        for op, fields in (("describe", {}), ("page", {"path": page}), ("accept", {"bank": bank, "title": "a case"})):
            worker.send(op=op, job=3, case=case, **fields)
            told = worker.until("done", "error")[-1]
            assert told["event"] == "done", told
            assert leaks(json.dumps(told).encode(), clinic.known) == []
        assert worker.end() == 0
    finally:
        worker.process.kill()
        worker.process.wait()
    assert clinic.found(json.dumps(last), "".join(worker.errors)) == []
    assert list((clinic.scratch / "temporary").iterdir()) == []


def structures(reference: Reference) -> list[dict[str, Any]]:
    return [{"value": one.value, "name": one.name} for one in reference.structures]


KILLED = """
import os, signal, sys
import rau.cli, rau.pipeline
whole = rau.pipeline.walked
def walked(*given):
    tell = given[5]
    def told(event):
        tell(event)
        if getattr(event, "done", 0) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given[:5], told, *given[6:])
rau.pipeline.walked = walked
rau.cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_that_is_killed_leaves_nothing_of_the_patient_behind(clinic: Clinic, environment: dict[str, str]) -> None:
    call = ["segment", "--reference", clinic.files / "reference", "--labels", clinic.files / "labels.dcm"]
    call += ["--target", clinic.target, "--output", clinic.scratch / "out" / "out.seg.nrrd", "--model", "random", *FAST]
    variables = {**environment, **{name: os.environ[name] for name in ("HOME", "TMPDIR", "RAU_MODELS")}}
    command = [sys.executable, "-c", KILLED, *(str(part) for part in call)]
    ran = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)
    assert ran.returncode == -9, ran.stderr
    assert clinic.found(ran.stdout, ran.stderr) == []
    assert list((clinic.scratch / "out").iterdir()) == []
