"""The benchmarks of the bank, on banks made here: what they build is whole, and what they count is right."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip("torch")

import bank as bank_benchmark
import retrieval
from PIL import Image

from rau.bank.bank import Bank
from rau.bank.search import pick
from rau.models.engine import load_engine
from rau.settings import SegmentSettings
from rau.volume.volume import Geometry, LabelMap, Structure


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SegmentSettings(model=str(random_model), device="cpu", threads=1))


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Two sets of pictures: dark discs on light, and light stripes on dark in colour; four subjects each."""
    rows, columns = np.indices((64, 64))
    for name, mask in (("discs", (rows - 32) ** 2 + (columns - 32) ** 2 < 200), ("stripes", rows // 8 % 2 == 1)):
        cases = {}
        for number in range(4):
            rng = np.random.default_rng(number)
            folder = tmp_path / name / f"case_{number}"
            folder.mkdir(parents=True)
            grey = np.clip(100 + 80 * mask + rng.normal(0, 10, mask.shape), 0, 255).astype(np.uint8)
            colour = np.stack([grey, grey // 2, 255 - grey], -1)
            Image.fromarray(colour if name == "stripes" else grey).save(folder / "image.png")
            Image.fromarray(mask.astype(np.uint8)).save(folder / "labels.png")
            cases[f"case_{number}"] = {}
        modality = "ultrasound of discs" if name == "discs" else "photograph"
        told = {"modality": modality, "dims": 2, "structures": {"1": name}, "licence_allows_training": False}
        (tmp_path / name / "set.json").write_text(json.dumps({**told, "cases": cases}))
    monkeypatch.setenv("RAU_DATA", str(tmp_path))
    return "discs", "stripes"


def test_a_synthetic_bank_is_whole_and_is_searched(tmp_path, engine):
    bank_benchmark.fill(tmp_path / "bank", 30, engine)
    bank = Bank.open(tmp_path / "bank")
    found = bank.verify()
    assert found.clean and not found.cleaned and len(found.entries) == 30
    picked = pick(bank, bank_benchmark.target_of(1), engine, count=2, tell=lambda _: None)
    assert len(picked.references) == 2 and picked.chosen[0].similarity >= picked.chosen[1].similarity


def test_the_probe_measures_a_bank(tmp_path, engine, random_model):
    bank_benchmark.fill(tmp_path / "bank", 12, engine)
    told = bank_benchmark.probe(tmp_path / "bank", Namespace(model=str(random_model), device="cpu"))
    assert told["entries"] == 12 and 0 < told["query_s"] <= told["slowest_s"] and told["mb"] >= 0


def test_a_slice_counts_for_each_structure_of_the_target_and_its_partner_shows_it_or_not():
    grid = Geometry((3, 2, 2))
    target, reference = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    target[0], target[1, 0], target[2] = 1, 2, 3
    reference[1], reference[2] = 5, 6
    one = LabelMap(target, grid, (Structure(1, "liver"), Structure(2, "spleen"), Structure(3, "unknown")))
    other = LabelMap(reference, grid, (Structure(5, "Liver"), Structure(6, "Spleen")))
    assert retrieval.shared_slices(one, other, [(0, 1), (1, 2), (2, 2)]) == [True, True, False]
    assert retrieval.shared_slices(one, other, [(0, 0), (1, 1)]) == [False, False]


def test_subjects_never_meet_themselves_and_what_is_of_another_kind_is_doubted(tmp_path, sets, engine):
    bank = Bank.create(tmp_path / "bank")
    members = retrieval.fill(bank, sets, 4)
    assert [one.modality for one in members] == ["US"] * 4 + ["OT"] * 4
    run = retrieval.Setting(bank, members, engine, SegmentSettings(device="cpu"))
    for member in members:
        ranked = run.ranked(member, member.reference.image)
        assert member.entry not in [one.entry.id for one in ranked] and len(ranked) == 7
    rates = retrieval.mismatch_part(run)
    assert rates["told"] == 1.0 and rates["untold"] == 1.0 and rates["same_set"] == 1.0
    recall = retrieval.recall_part(run)
    assert recall["discs"] == {"aligned": 1.0, "position": 1.0, "random": 1.0}


def test_every_way_has_a_dice(tmp_path, sets, engine):
    bank = Bank.create(tmp_path / "bank")
    settings = SegmentSettings(device="cpu", adaptation="off", registration="off")
    run = retrieval.Setting(bank, retrieval.fill(bank, sets[:1], 4), engine, settings)
    figures = retrieval.dice_part(sets[:1], run, 1)["discs"]
    assert len(figures["targets"]) == 1
    assert all(0 <= figures[way] <= 1 for way in retrieval.WAYS)
