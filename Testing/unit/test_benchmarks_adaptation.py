"""What the benchmarks of the adaptation stand on: fixed validation tasks, and the network trained at use."""

from __future__ import annotations

import json
from dataclasses import asdict

import common
import numpy as np
import pytest
import torch
from evaluation_sets import joined
from fit_gate import Row, dice_of, fitted, mean_dice
from tuning import WAYS, tuned
from validation_tasks import LEAST, Scan, anatomies, picture_task, slice_pair

from rau.errors import InputError
from rau.models.engine import load_engine
from rau.models.store import known_models
from rau.settings import SegmentSettings
from rau.volume.volume import Structure

needs_model = pytest.mark.skipif("rau-mini" not in known_models(), reason="the bundled model is not here")


def test_validation_tasks_are_the_same_each_time_and_show_what_is_asked():
    first, again = (next(anatomies(1)) for _ in range(2))
    assert np.array_equal(first.target.array, again.target.array)
    assert np.array_equal(first.truth.array, again.truth.array)
    assert set(np.unique(first.reference.labels.array)) - {0} == {one.value for one in first.reference.structures}


def test_a_picture_task_keeps_colours_and_drops_what_the_reference_lacks():
    pictures = np.zeros((2, 3, 8, 8), np.uint8)
    pictures[:, 0] = 200
    maps = np.zeros((2, 8, 8), np.uint16)
    maps[0, :4], maps[1, :2], maps[1, 4:] = 1, 1, 2
    task = picture_task("group", pictures, maps)
    assert task.target.is_colour and set(np.unique(task.truth.array)) == {0, 1}
    assert picture_task("group", pictures, np.zeros_like(maps)) is None


def scan_with(values, start: int = 4):
    """A volume of 20 x 30 x 40 voxels with a block of each value, from slice `start` on along every axis."""
    labels = np.zeros((20, 30, 40), np.uint16)
    for k, value in enumerate(values):
        labels[start:16, start:26, start + 8 * k : start + 8 * (k + 1)] = value
    structures = tuple(Structure(value, f"structure {value}") for value in values)
    return Scan((labels * 20).astype(np.uint8), labels, (3.0, 2.0, 1.0), structures)


@pytest.mark.parametrize("axis", range(3))
def test_a_pair_of_slices_shows_what_both_patients_have_at_that_level_in_true_proportions(axis):
    task = slice_pair("group", scan_with((1, 2, 3)), scan_with((2, 3, 5), 6), axis, np.random.default_rng(1))
    if task is None:  # cut where no block is shared
        assert axis == 2
        return
    rest = [size for k, size in enumerate((3.0, 2.0, 1.0)) if k != axis]
    shown = set(np.unique(task.reference.labels.array).tolist()) - {0}
    assert shown <= {2, 3} and shown == set(np.unique(task.truth.array).tolist()) - {0}
    assert task.target.array.shape[0] == 1 and list(task.target.geometry.spacing[1:]) == rest
    assert {one.value for one in task.reference.structures} == shown
    assert min((task.truth.array == value).sum() for value in shown) > LEAST


def test_patients_who_share_nothing_make_no_pair():
    assert slice_pair("group", scan_with((1,)), scan_with((2,)), 0, np.random.default_rng(0)) is None


@needs_model
@pytest.mark.parametrize("way", WAYS)
def test_training_the_network_at_use_leaves_the_engine_as_it_was(way):
    engine = load_engine(SegmentSettings())
    before = {k: v.clone() for k, v in engine.segmenter.model.state_dict().items()}
    other = tuned(engine, next(anatomies(1)), way, steps=2)
    assert all(torch.equal(v, before[k]) for k, v in engine.segmenter.model.state_dict().items())
    changed = other.segmenter.model.state_dict()
    assert any(key not in before or not torch.equal(value, before[key]) for key, value in changed.items())


def row_of(task: int, seed: int) -> Row:
    """The expert is right, network and prior are noise."""
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(500, generator=generator) > 0.5).float()
    noise = torch.rand(500, 2, generator=generator)
    votes = torch.stack([noise[:, 0], 0.1 + 0.8 * truth, noise[:, 1]], 1)
    return Row(task, "group", votes, truth, torch.tensor([True, True, True]), torch.tensor([1.0, 0.9, 0.5, 0.1, 0.3]))


def test_the_fit_gives_the_share_to_the_source_that_is_right():
    rows = [row_of(task, task) for task in range(4)]
    start = torch.zeros(3, 5)
    assert mean_dice(rows, fitted(rows, start, 80)) > mean_dice(rows, start) + 0.02
    assert dice_of(rows[0], torch.tensor([0.0, 1.0, 0.0]), soft=False) == 1


def test_runs_on_parts_of_the_sets_are_judged_as_one_and_only_of_one_model(tmp_path, monkeypatch, data_folder):
    monkeypatch.setenv("RAU_DATA", str(data_folder))
    for name, version in (("a", 1), ("b", 1), ("c", 2)):
        told = {"sets": {name: [asdict(common.Outcome("1 -> 2", 0.5, 1.0))]}, "versions": {"model": version}}
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    both = joined([tmp_path / "b.json", tmp_path / "a.json"])
    assert [one.name for one in both] == ["a", "b"] and both[0].outcomes[0].dice == 0.5
    with pytest.raises(InputError, match="different models"):
        joined([tmp_path / "a.json", tmp_path / "c.json"])
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(InputError, match="holds no figures"):
        joined([tmp_path / "d.json"])


@pytest.fixture
def data_folder(tmp_path):
    for name in "abc":
        (tmp_path / "sets" / name).mkdir(parents=True)
        told = {"modality": "", "dims": 2, "structures": {}, "licence_allows_training": False, "cases": {}}
        (tmp_path / "sets" / name / "set.json").write_text(json.dumps(told))
    return tmp_path / "sets"
