"""The whole judgement on a small random model: odd cases, cancel, the report. No accuracy is asked here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from quality_runs import finish  # noqa: E402

from rau.assembly.summary import summarise  # noqa: E402
from rau.errors import Cancelled  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.quality.judge import judge  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

STRUCTURES = (Structure(2, "ball"), Structure(5, "box"))
PLAIN = SegmentSettings(device="cpu", planes="acquisition", registration="off", adaptation="off")


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SegmentSettings(model=str(random_model), device="cpu"))


def subject(shape, seed=0, colour=False, structures=STRUCTURES, direction=None) -> Reference:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    rows, columns = (n // 4 for n in shape[1:])
    inner = slice(1, shape[0] - 1) if shape[0] > 2 else slice(None)
    labels[inner, rows : 2 * rows, columns : 2 * columns] = 2
    labels[inner, 2 * rows : 3 * rows, 2 * columns : 3 * columns] = 5
    labels[~np.isin(labels, [one.value for one in structures])] = 0
    image = np.clip(rng.normal(80, 5, shape) + 25 * labels, 0, 255).astype(np.uint8)
    grid = Geometry(shape, (4.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1] if direction is None else direction)
    pixels = np.stack([image, image // 2, image], -1) if colour else image
    return Reference(Volume(pixels, grid, "OT" if colour else "MR"), LabelMap(labels, grid, structures))


def judged(engine, references, target, settings=PLAIN, empty=False):
    done = finish(references, target, engine, settings)
    labels, results = done.labels, done.results
    if empty:
        labels = replace(labels, array=np.zeros_like(labels.array))
        results = summarise(labels, done.votes, True)
    return judge(done.case, done.votes, done.guide, done.cues, labels, results, settings), labels, results


@pytest.mark.parametrize(
    "shape, colour, count, adaptation",
    [
        ((1, 32, 28), False, 1, "off"),
        ((1, 32, 28), True, 1, "auto"),
        ((6, 24, 20), False, 1, "off"),
        ((6, 24, 20), False, 2, "auto"),
    ],
)
def test_every_kind_of_case_is_judged(engine, shape, colour, count, adaptation):
    references = [subject(shape, 1 + k, colour) for k in range(count)]
    settings = PLAIN.model_copy(update={"adaptation": adaptation})
    quality, labels, results = judged(engine, references, subject(shape, 0, colour).image, settings)
    told = json.loads(json.dumps(quality.report(), allow_nan=False))
    assert [one["name"] for one in told["structures"]] == ["ball", "box"]
    for one, row in zip(results, told["structures"], strict=True):
        assert (row["light"] == "absent") == (not one.present)
        if one.present:
            low, high = row["interval"]
            assert 0 <= low <= row["expected_dice"] <= high <= 1
            assert (row["evidence"]["trust"] is None) == (adaptation == "off")
    shown = np.unique(np.nonzero(labels.array)[0]).tolist()
    assert [one["index"] for one in told["slices"]] == shown
    assert {one["index"] for one in told["review"]} <= set(shown)


def test_one_structure_and_nothing_found_are_no_trouble(engine):
    one = subject((1, 32, 28), 1, structures=STRUCTURES[:1])
    quality, _, _ = judged(engine, [one], subject((1, 32, 28)).image)
    assert len(quality.structures) == 1
    quality, _, _ = judged(engine, [subject((3, 24, 20), 1)], subject((3, 24, 20)).image, empty=True)
    assert quality.light == "absent" and not quality.slices and not quality.review
    assert all(one.estimate is None for one in quality.structures)


def test_three_planes_and_registration_are_more_witnesses(engine):
    reference, target = subject((6, 12, 12), 1), subject((6, 12, 12)).image
    more = SegmentSettings(device="cpu", planes="all", adaptation="off")
    for settings in (PLAIN, more):
        quality, _, _ = judged(engine, [reference], target, settings)
        known = [one.evidence for one in quality.structures if one.evidence is not None]
        assert known and all((one.planes is not None) == (settings is more) for one in known)
        assert settings is more or all(one.final_prior is None for one in known)
    done = finish([reference], target, engine, more)
    assert all((one.final_prior is None) == (not done.case.has_prior(one.value)) for one in known)


def test_slices_are_told_in_the_order_of_the_targets_own_array(engine):
    direction = np.eye(3)[:, ::-1] * [-1, 1, 1]
    straight = subject((6, 24, 20), 0)
    upside = Volume(straight.image.array[::-1].copy(), replace(straight.image.geometry, direction=direction), "MR")
    one, _, _ = judged(engine, [subject((6, 24, 20), 1)], straight.image)
    other, labels, _ = judged(engine, [subject((6, 24, 20), 1)], upside)
    assert one.slices and one.axis == other.axis == 0
    assert sorted(s.index for s in one.slices) == sorted(5 - s.index for s in other.slices)
    assert {s.index for s in other.slices} == set(np.nonzero(labels.array.any((1, 2)))[0].tolist())


def test_it_can_be_cancelled_and_the_same_case_is_judged_alike(engine):
    done = finish([subject((1, 32, 28), 1)], subject((1, 32, 28)).image, engine, PLAIN)
    whole = (done.case, done.votes, done.guide, done.cues, done.labels, done.results, PLAIN)
    one, other = judge(*whole), judge(*whole)
    assert replace(one, seconds=0.0) == replace(other, seconds=0.0)

    def stop() -> None:
        raise Cancelled()

    with pytest.raises(Cancelled):
        judge(*whole, stop)
