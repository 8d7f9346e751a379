"""Sets of labelled images: layout, what training may see, and who is paired with whom."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rau.errors import InputError
from rau.evaluation import datasets
from rau.evaluation.datasets import held_out_cases, load_set, set_names, training_cases
from rau.evaluation.pairs import chain, pairs_of


def picture_case(folder: Path, values: tuple[int, ...]) -> None:
    """A noise picture with a square for each label value."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(values))
    image = rng.integers(0, 255, (24, 40), dtype=np.uint8)
    labels = np.zeros((24, 40), np.uint8)
    for place, value in enumerate(values):
        labels[4:12, 2 + 5 * place : 6 + 5 * place] = value
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(labels).save(folder / "labels.png")


def write_set(data: Path, name: str, cases: dict[str, dict[str, object]], shown: dict[str, tuple[int, ...]], **more):
    told = {
        "name": name,
        "modality": "CT",
        "dims": "2",
        "structures": {"1": "liver", "2": "spleen", "3": "kidney", "4": "aorta"},
        "licence_allows_training": False,
        "spacing_known": False,
        "cases": cases,
        **more,
    }
    for case in cases:
        picture_case(data / name / case, shown.get(case, (1, 2)))
    (data / name / "set.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAU_DATA", str(tmp_path))
    return tmp_path


def numbered(count: int) -> dict[str, dict[str, object]]:
    return {f"case_{n:03d}": {} for n in range(1, count + 1)}


def test_data_are_found_by_the_environment(data):
    assert datasets.find_data() is None  # a folder without sets is no data
    write_set(data, "one", numbered(2), {})
    assert datasets.find_data() == data
    assert set_names() == ["one"]


def test_no_data_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAU_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="RAU_DATA"):
        load_set("one")


def test_a_case_reads_as_named_structures_on_the_image_grid(data):
    write_set(data, "one", numbered(1), {"case_001": (2, 4)})
    volume, labels = load_set("one").cases[0].read()
    assert volume.array.shape == labels.array.shape == (1, 24, 40)
    assert not volume.spacing_known
    assert [(s.value, s.name) for s in labels.structures] == [(2, "spleen"), (4, "aorta")]


def test_a_task_and_a_case_name_their_own_structures(data):
    cases = {"case_001": {"task": "hip"}, "case_002": {"structures": {"1": "femur", "2": "femur"}}}
    write_set(data, "one", cases, {"case_001": (1,)}, tasks={"hip": {"structure": "pelvis"}})
    first, second = load_set("one").cases
    assert [s.name for s in first.read()[1].structures] == ["pelvis"]
    assert [s.name for s in second.read()[1].structures] == ["femur", "femur 2"]


def test_colour_pictures_are_read_in_colour(data):
    write_set(data, "one", numbered(1), {})
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 40, 3), dtype=np.uint8)).save(data / "one" / "case_001" / "image.png")
    assert load_set("one").cases[0].read()[0].is_colour


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "one"}'])
def test_a_damaged_set_is_one_clear_line(data, text):
    (data / "one").mkdir()
    (data / "one" / "set.json").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        load_set("one")


def test_unknown_sets_and_files_are_refused(data):
    write_set(data, "one", numbered(1), {})
    with pytest.raises(InputError, match="Sets here: one"):
        load_set("two")
    with pytest.raises(InputError, match="labels_lungs"):
        load_set("one").cases[0].read(labels="labels_lungs")


def test_training_refuses_closed_sets(data):
    write_set(data, "closed", numbered(3), {})
    write_set(data, "open", numbered(3), {}, licence_allows_training=True)
    with pytest.raises(InputError, match="may not be used for training. Allowed: open"):
        training_cases("closed")
    assert len(training_cases("open")) == 3 and held_out_cases("open") == ()
    assert len(held_out_cases("closed")) == 3


def test_held_out_cases_are_the_last_ones_and_never_trained_on(data):
    write_set(data, "hc18", numbered(9), {}, licence_allows_training=True)
    kept, trained = held_out_cases("hc18"), training_cases("hc18")
    assert [c.name for c in kept] == [f"case_{n:03d}" for n in range(4, 10)]
    assert not {c.name for c in kept} & {c.name for c in trained}


def test_the_trainer_reads_no_held_out_case(data):
    from rau.training.sets import cases_of

    write_set(data, "hc18", numbered(12), {}, licence_allows_training=True)
    trained, checked = cases_of(data, "hc18")
    assert trained and checked
    assert not {case.name for case in held_out_cases("hc18")} & {case.name for case in [*trained, *checked]}


def test_case_k_is_the_reference_of_the_next(data):
    write_set(data, "one", numbered(4), {})
    found = pairs_of(load_set("one").cases)
    assert [p.label for p in found][:2] == ["case_004 -> case_001", "case_001 -> case_002"]
    assert [p.label for p in chain(load_set("one").cases, 2)] == ["case_001 -> case_002", "case_002 -> case_003"]


def test_no_pair_of_one_subject_or_of_two_tasks(data):
    cases = {
        "case_001": {"subject": "a", "task": "x"},
        "case_002": {"subject": "a", "task": "x"},
        "case_003": {"subject": "b", "task": "x"},
        "case_004": {"subject": "c", "task": "y"},
    }
    tasks = {"x": {"structure": "liver"}, "y": {"structure": "liver"}}
    write_set(data, "one", cases, dict.fromkeys(cases, (1,)), tasks=tasks)
    found = {p.target.name: p.reference.name for p in pairs_of(load_set("one").cases)}
    assert found == {"case_001": "case_003", "case_002": "case_003", "case_003": "case_002"}


def test_the_reference_that_shows_the_same_structures_is_taken(data):
    shown = {"case_001": (1, 2, 3), "case_002": (4,), "case_003": (1, 2), "case_004": (1, 2, 3, 4)}
    write_set(data, "one", numbered(4), shown)
    found = {p.target.name: p.reference.name for p in pairs_of(load_set("one").cases)}
    assert found == {"case_001": "case_004", "case_002": "case_004", "case_003": "case_001", "case_004": "case_001"}


def test_cases_without_anything_in_common_make_no_pair(data):
    write_set(data, "one", numbered(2), {"case_001": (1,), "case_002": (2,)})
    assert pairs_of(load_set("one").cases) == []


def test_every_real_set_reads_and_pairs(shared_data):
    """All sets: first case readable; evaluation-only ones have pairs, and never one subject on both sides."""
    for name in set_names(shared_data):
        found = load_set(name, shared_data)
        if not (found.cases[0].folder / "labels.nii.gz").exists() or name != "synthseg_labelmaps":
            volume, labels = found.cases[0].read()
            assert volume.geometry.matches(labels.geometry) and labels.structures, name
        if not found.trainable:
            pairs = pairs_of(found.cases)
            assert pairs, name
            assert all(p.reference.subject != p.target.subject or p.image for p in pairs), name


def test_dicom_case_is_placed_by_geometry(shared_data):
    volume, labels = load_set("totalsegmentator", shared_data).cases[2].read()
    assert volume.modality == "CT" and volume.geometry.matches(labels.geometry)
    liver = volume.array[labels.array == labels.structure("liver").value]
    assert 0 < np.median(liver) < 150  # HU of a liver: the label map lies where the image has one
