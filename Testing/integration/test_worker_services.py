"""The worker's jobs on a result, over the real process: bank, export, description, report, references of a bank."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration.worker_side import WorkerProcess, image_message, job_message

from rau.bank.bank import Bank
from rau.references.reference import Reference
from rau.volume.labels import read_labels
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import LabelMap, Structure
from rau.worker.from_bank import numbered

pytest.importorskip("sam2")
GONE = "Doe^Jane 4711"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def service(environment: dict[str, str], folder: Path) -> Iterator[WorkerProcess]:
    """One worker for all of these tests."""
    started = WorkerProcess(environment)
    started.send(op="hello", protocol=1, folder=str(folder))
    started.until("ready")
    yield started
    assert started.end() == 0


@pytest.fixture
def case(folder: Path, pair: tuple[Reference, Any]) -> dict[str, Any]:
    """The annotated patient as a message; its volume has the name of a patient."""
    return case_message(folder, pair[0])


def case_message(folder: Path, reference: Reference, stem: str = "case") -> dict[str, Any]:
    image = {**image_message(folder, f"{stem}.npy", reference.image), "source": GONE}
    np.save(folder / f"{stem}-labels.npy", reference.labels.array.astype(np.uint16))
    structures = [
        {"value": s.value, "name": s.name, "color": s.color, "terminology": s.terminology} for s in reference.structures
    ]
    return {"image": image, "labels": {"array": f"{stem}-labels.npy"}, "structures": structures}


def ask(service: WorkerProcess, op: str, **message: Any) -> dict[str, Any]:
    """The last event of a job."""
    service.send(op=op, job=1, **message)
    return service.until("done", "error")[-1]


def test_what_is_accepted_is_listed_and_comes_back_equal(service, case, pair, tmp_path):
    bank = str(tmp_path / "bank")
    assert ask(service, "bank_list", bank=bank)["report"] == {"exists": False, "entries": []}
    provenance = {"settings": {"model": "/home/jane/models/rau-mini", "prompt": GONE}, "versions": {"rau": "1"}}
    told = {"title": "Upper abdomen", "body_part": "Abdomen", "note": "Consent: yes", "provenance": provenance}
    first = ask(service, "accept", bank=bank, case=case, **told)["report"]
    assert not first["known"] and first["structures"] == [s.name for s in pair[0].structures]
    assert ask(service, "accept", bank=bank, case=case, **told)["report"] == {**first, "known": True}

    listed = ask(service, "bank_list", bank=bank)["report"]
    (row,) = listed["entries"]
    assert listed["exists"] and row["id"] == first["id"] and row["how"] == "accepted"
    assert (row["title"], row["modality"], row["shape"]) == ("Upper abdomen", "CT", list(pair[0].image.array.shape))
    assert [one["name"] for one in row["structures"]] == first["structures"] and Path(row["thumbnail"]).is_file()
    kept = Bank.open(bank).reference(first["id"])
    assert np.array_equal(kept.image.array, pair[0].image.array)
    assert np.array_equal(kept.labels.array, pair[0].labels.array)
    assert kept.structures == pair[0].structures and kept.image.geometry.matches(pair[0].image.geometry)
    files = b"".join(path.read_bytes() for path in Path(bank).rglob("*") if path.is_file())
    assert b"Doe" not in files and b"4711" not in files and b"/home/jane" not in files


def test_a_damaged_entry_is_a_warning_and_a_damaged_bank_an_error(service, case, tmp_path):
    bank = tmp_path / "bank"
    entry = ask(service, "accept", bank=str(bank), case=case)["report"]["id"]
    (bank / entry / "entry.json").write_text("{")
    service.send(op="bank_list", job=2, bank=str(bank))
    events = service.until("done", "error")
    assert events[-1]["report"]["entries"] == []
    assert [e["event"] for e in events] == ["warning", "done"] and "passed over" in events[0]["message"]
    (bank / "bank.json").write_text("{")
    told = ask(service, "bank_list", bank=str(bank))
    assert told["kind"] == "InputError" and "damaged" in told["message"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "holiday.txt").write_text("")
    assert "no bank" in ask(service, "accept", bank=str(other), case=case)["message"]
    assert [one.name for one in other.iterdir()] == ["holiday.txt"]


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".dcm"])
def test_an_exported_label_map_reads_back_equal(service, case, pair, tmp_path, ending):
    pytest.importorskip("highdicom")
    path, labels = tmp_path / f"out{ending}", pair[0].labels
    told = {"labels": case["labels"], "structures": case["structures"], "geometry": case["image"]["geometry"]}
    assert ask(service, "export", path=str(path), modality="CT", **told)["report"] == {"file": path.name}
    read, _ = labels_on_grid(read_labels(path), labels.geometry)  # DICOM may have the slices the other way round
    assert b"Doe^Jane" not in path.read_bytes()
    numbers = {one.name: one.value for one in read.structures}
    for one in labels.structures:
        value = numbers[one.name] if ending != ".nii.gz" else one.value
        assert np.array_equal(read.array == value, labels.array == one.value), one.name


def test_an_export_that_cannot_be_written_is_told_and_leaves_nothing(service, case, tmp_path):
    told = {"labels": case["labels"], "structures": case["structures"], "geometry": case["image"]["geometry"]}
    for path, words in ((tmp_path / "out.xyz", "ending"), (tmp_path / "no" / "out.nrrd", "folder")):
        found = ask(service, "export", path=str(path), **told)
        assert found["event"] == "error" and words in found["message"] and found["hint"]
    assert list(tmp_path.iterdir()) == []


def test_descriptions_are_of_the_voxels_sent(service, case, pair):
    found = ask(service, "describe", case=case, scores={1: 0.5})["report"]["structures"]
    counts = {one.name: int((pair[0].labels.array == one.value).sum()) for one in pair[0].structures}
    assert {one["facts"]["name"]: one["facts"]["voxels"] for one in found} == counts
    assert all(one["text"] and "prose" not in one for one in found)


def test_the_report_is_one_page_with_everything_in_it_and_no_patient(service, case, pair, tmp_path):
    names = [one.name for one in pair[0].structures]
    case["structures"][0]["name"] = "<i>liver</i>"
    trust = [
        {"name": "<I>Liver</I>", "light": "red", "expected": 0.4, "low": 0.2, "high": 0.6, "broken": ["3 pieces"]},
        {"name": names[1], "light": "green", "expected": 0.9, "voxels": 3},
        {"name": "gallbladder of the run", "light": "absent"},
    ]
    path = tmp_path / "report.html"
    warnings = ["Look < twice"]
    told = ask(service, "page", path=str(path), case=case, trust=trust, level=0.9, warnings=warnings)
    assert told["report"] == {"file": "report.html"}, told
    text = path.read_text(encoding="utf-8")
    assert "Not for clinical use" in text and "Look &lt; twice" in text
    assert "&lt;i&gt;liver&lt;/i&gt;" in text and "<i>" not in text, "a name is no markup"
    assert "\u25a0 doubtful" in text and "0.40 (0.20 to 0.60)" in text and "3 pieces" in text
    assert "corrected since the run" in text and "\u2013 not found" in text and "not of the run" in text
    picture = base64.b64decode(re.findall(r"base64,([^\"]+)", text)[0])
    plain = re.sub(r"base64,[^\"]+", "", text)
    assert (
        "Doe" not in plain
        and "4711" not in plain
        and not re.search(r"(src|href)=\"(?!data:image/png)", text)
        and "<script" not in text
    )
    assert picture.startswith(b"\x89PNG")
    assert "html" in ask(service, "page", path=str(tmp_path / "report.pdf"), case=case)["hint"]


def test_the_bank_segments_as_the_reference_itself_does(service, folder, pair, tmp_path, random_model):
    """By id, by choice of the bank, and beside a reference of the scene: the panel's label values hold."""
    reference, (target, _) = pair
    bank = Bank.create(tmp_path / "bank")
    entry = bank.add(reference)
    chosen = {"model": str(random_model), "device": "cpu", "threads": 1, "planes": "acquisition"}
    message = job_message(folder, 7, reference, target, **chosen)
    service.send(**message)
    direct = service.until("done", "error")[-1]
    wanted = np.load(folder / "result-7.npy").copy()
    assert direct["event"] == "done" and wanted.any()
    numbers = {s.name.upper(): 100 - s.value for s in reference.structures}
    for ids in ([entry.id], []):
        service.send(**{**message, "references": [], "bank": str(bank.root), "bank_ids": ids, "numbers": numbers})
        events = service.until("done", "error")
        assert events[-1]["event"] == "done", events[-1]
        assert any("from the bank" in e.get("message", "") for e in events)
        assert events[-1]["report"]["provenance"]["bank"]["used"][0]["id"] == entry.id
        found = np.load(folder / "result-7.npy")
        expected = np.where(wanted > 0, 100 - wanted.astype(int), 0)
        assert np.array_equal(found, expected)
    asked = {"structures": ["no such", reference.structures[0].name]}
    service.send(**{**message, "references": [], "bank": str(bank.root), "settings": {**chosen, **asked}})
    events = service.until("done", "error")
    assert any("No reference shows no such" in e.get("message", "") for e in events)
    assert [s["name"] for s in events[-1]["report"]["structures"]] == [reference.structures[0].name]


def test_corrected_slices_come_back_as_they_were_sent(service, folder, pair, random_model):
    reference, (target, truth) = pair
    message = job_message(folder, 9, reference, target, model=str(random_model), threads=1, planes="acquisition")
    np.save(folder / "job9-corrections.npy", truth.array.astype(np.uint16))
    structures = [{"value": s.value, "name": s.name} for s in truth.structures]
    corrections = {"labels": {"array": "job9-corrections.npy"}, "structures": structures, "axis": 0, "slices": [4, 5]}
    service.send(**{**message, "corrections": corrections})
    last = service.until("done", "error")[-1]
    assert last["event"] == "done", last
    numbers = {one["name"]: one["value"] for one in last["report"]["structures"]}
    found = np.load(folder / "result-9.npy")
    for one in truth.structures:
        if one.name in numbers:
            assert np.array_equal(found[[4, 5]] == numbers[one.name], truth.array[[4, 5]] == one.value), one.name
    service.send(**{**message, "corrections": {**corrections, "slices": [99]}})
    assert "no slice 99" in service.until("done", "error")[-1]["message"]


def test_numbers_of_other_structures_come_after_those_asked_for(pair):
    image = pair[0].image
    array = np.zeros(image.array.shape, np.uint8)
    array[0, 0, :3] = (1, 2, 9)
    labels = LabelMap(array, image.geometry, (Structure(1, "a"), Structure(2, "b"), Structure(9, "c")))
    found = numbered(Reference(image, labels), {" B": 1, "x": 5})
    assert [(s.name, s.value) for s in found.structures] == [("a", 6), ("b", 1), ("c", 7)]
    assert found.labels.array[0, 0, :4].tolist() == [6, 1, 7, 0]
