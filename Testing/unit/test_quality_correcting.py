"""Structural priors that correct: an odd piece goes, all else stays, and what was done is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rau.quality.correcting import Move, Ranked, Scene, correct, odd_pieces, taken
from rau.quality.layout import measure
from rau.quality.prior import learn

SPACING = (3.0, 1.0, 1.0)
NAMES = {1: "liver", 2: "spleen", 3: "lesion", 4: "bladder"}
VALUES = tuple(NAMES)
SINGLE = VALUES


def body() -> np.ndarray:
    """(20, 40, 40): liver (1) at the right, spleen (2) at the left, a lesion (3) in the liver, bladder (4) below."""
    labels = np.zeros((20, 40, 40), np.uint16)
    labels[10:18, 10:30, 4:18] = 1
    labels[11:16, 14:26, 24:34] = 2
    labels[12:15, 15:20, 8:12] = 3
    labels[2:6, 8:20, 15:23] = 4
    return labels


PRIOR = learn([measure(body(), SPACING, VALUES)])


def nobody(where: np.ndarray, value: int) -> np.ndarray:
    return np.zeros(len(where), np.uint16)


def always(taker: int):
    return lambda where, value: np.full(len(where), taker, np.uint16)


def put_right(labels: np.ndarray, runners_up=nobody, single=SINGLE) -> tuple[np.ndarray, list[Move]]:
    found = labels.copy()
    return found, correct(found, SPACING, PRIOR, single, NAMES, runners_up)


def with_stray_spleen() -> np.ndarray:
    """A part of the spleen at the far right, beside the liver."""
    labels = body()
    labels[11:15, 14:20, 1:4] = 2
    return labels


def test_a_piece_on_the_wrong_side_goes_and_is_said():
    found, (move,) = put_right(with_stray_spleen())
    assert np.array_equal(found, body())
    assert move.value == 2 and move.voxels == 4 * 6 * 3 and move.ml == pytest.approx(0.216) and not move.given
    assert move.words(NAMES).startswith("corrected: spleen, a piece of 0.22 ml (spleen is not left of liver")
    assert move.words(NAMES).endswith("was removed")
    assert move.report(NAMES)["name"] == "spleen" and move.report(NAMES)["given"] == {}


def test_it_goes_to_the_runner_up_where_that_lies_next_to_it():
    found, (move,) = put_right(with_stray_spleen(), always(1))
    assert np.array_equal(found == 1, (body() == 1) | (with_stray_spleen() != body()))
    assert move.given == {1: 72} and move.words(NAMES).endswith("was given to liver")


def test_a_runner_up_that_lies_elsewhere_gets_nothing():
    found, (move,) = put_right(with_stray_spleen(), always(4))
    assert np.array_equal(found, body()) and not move.given


def test_a_larger_piece_on_the_wrong_side_goes_where_the_smaller_one_is_as_large_as_references_allow():
    labels = body()
    labels[labels == 2] = 0
    labels[11:15, 14:24, 24:32] = 2
    kept = labels == 2
    labels[8:18, 12:30, 0:3] = 2
    assert kept.sum() < (labels == 2).sum() / 2
    found, moves = put_right(labels)
    assert len(moves) == 1 and np.array_equal(found == 2, kept)


def test_what_would_be_left_must_not_be_too_small():
    labels = with_stray_spleen()
    labels[11:16, 14:26, 24:34] = 0
    labels[13, 20, 24:30] = 2
    found, moves = put_right(labels)
    assert not moves and np.array_equal(found, labels)


def test_the_only_piece_stays_however_odd():
    labels = body()
    labels[labels == 2] = 0
    labels[11:15, 14:20, 1:4] = 2
    found, moves = put_right(labels)
    assert not moves and np.array_equal(found, labels)


def test_where_no_piece_lies_right_all_stay():
    labels = np.ascontiguousarray(with_stray_spleen()[:, :, ::-1])
    labels[11:16, 14:26, 24:34][labels[11:16, 14:26, 24:34] == 2] = 0
    found, moves = put_right(labels)
    assert not moves and np.array_equal(found, labels)


def test_a_structure_in_several_pieces_in_the_references_is_left_alone():
    labels = with_stray_spleen()
    found, moves = put_right(labels, single=(1, 3, 4))
    assert not moves and np.array_equal(found, labels)


def test_a_part_outside_of_its_whole_goes():
    labels = body()
    labels[12:15, 32:36, 10:14] = 3
    found, (move,) = put_right(labels)
    assert np.array_equal(found, body()) and "lesion is not inside liver" in move.broken


def test_a_piece_too_far_from_the_rest_goes():
    labels = np.zeros((20, 40, 80), np.uint16)
    labels[:, :, :40] = body()
    labels[12:15, 16:20, 70:74] = 2  # left of the liver, as it should be
    found, (move,) = put_right(labels)
    assert not found[:, :, 60:].any() and move.broken[0].startswith("too far apart: 50 mm, expected up to 17")


def test_a_picture_is_corrected_by_the_priors_of_pictures_alone():
    flat, solid = body()[13:14], with_stray_spleen()[13:14]
    assert not put_right(solid)[1]
    prior = learn([measure(flat, SPACING, VALUES)])
    found = solid.copy()
    (move,) = correct(found, SPACING, prior, SINGLE, NAMES, nobody)
    assert np.array_equal(found, flat) and move.ml is None and "18 voxels" in move.words(NAMES)


@given(st.tuples(*[st.integers(-2, 2)] * 3))
@settings(max_examples=30, deadline=None)
def test_nothing_changes_where_nothing_is_broken(step):
    labels = np.roll(np.pad(body(), 3), step, (0, 1, 2))
    found, moves = put_right(labels)
    assert not moves and np.array_equal(found, labels)


@st.composite
def messes(draw) -> np.ndarray:
    """A body with up to five boxes of some structure, or of nothing, somewhere."""
    labels = body()
    for _ in range(draw(st.integers(0, 5))):
        start = [draw(st.integers(0, n - 2)) for n in labels.shape]
        box = tuple(slice(low, low + draw(st.integers(2, 9))) for low in start)
        labels[box] = draw(st.integers(0, 4))
    return labels


@given(messes(), st.integers(0, 4), st.sets(st.sampled_from(VALUES)))
@settings(max_examples=60, deadline=None)
def test_a_second_time_changes_nothing_and_only_what_was_said_was_moved(labels, taker, single):
    found, moves = put_right(labels, always(taker), tuple(single))
    again, none = put_right(found, always(taker), tuple(single))
    assert not none and np.array_equal(found, again)
    lost, gained = {one.value for one in moves}, {value for one in moves for value in one.given}
    assert lost <= set(single) and gained <= {taker}
    for value in VALUES:
        before, after = labels == value, found == value
        assert value in lost or not (before & ~after).any()
        assert value in gained or not (after & ~before).any()
        assert after.any() == before.any(), "the last piece never goes"
    assert ((labels > 0) | (found == 0)).all(), "what belonged to nobody still does"


torch = pytest.importorskip("torch")

from builders import signed_permutation  # noqa: E402
from rau.assembly.labels import PlaneVotes, assemble  # noqa: E402
from rau.corrections import Corrections  # noqa: E402
from rau.events import ignore  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.pipeline import join, rearranged, segment  # noqa: E402
from rau.preparation import prepare  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.sam.propagation import SliceMasks  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

STRUCTURES = tuple(Structure(value, name) for value, name in NAMES.items())
PLAIN = SegmentSettings(device="cpu", planes="acquisition", registration="off", adaptation="off", priors="correct")
DIRECTION = signed_permutation((2, 1, 0), (1, 1, 1))  # array axes run (head, back, left)


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SegmentSettings(model=str(random_model), device="cpu"))


def patient(labels: np.ndarray, direction: np.ndarray = DIRECTION) -> Reference:
    grid = Geometry(labels.shape, SPACING, (0.0, 0.0, 0.0), direction)
    image = (np.random.default_rng(0).normal(80, 5, labels.shape) + 20 * labels).astype(np.float32)
    return Reference(Volume(image, grid, "MR"), LabelMap(labels, grid, STRUCTURES))


def voted(engine, given_labels: np.ndarray, second: dict[int, int], corrections=None):
    """`rearranged` of a target that the network sees as `given_labels`; second: value by the one it might be too."""
    target = patient(body())
    case = prepare([target], target.image, PLAIN, engine, ignore, corrections)
    case = replace(case, smoothness={})  # the corners of these boxes are wanted as they are
    seen = case.orientation.forth(given_labels)
    votes = PlaneVotes(case.values, seen.shape, case.planes[0].images.axis)
    for index, shown in enumerate(np.moveaxis(seen, votes.axis, 0)):
        sure = [
            np.where(shown == v, 0.9, 0.7 * np.isin(shown, [a for a, b in second.items() if b == v])) for v in VALUES
        ]
        there = np.array([float((one > 0.5).any()) for one in sure])
        votes.add(SliceMasks(index, VALUES, np.stack(sure).astype(np.float32), there, 0.9 * there, 0, index, 1.0))
    assert np.array_equal(assemble([votes], 0.5), seen)
    plain = PLAIN.model_copy(update={"priors": "flag"})
    grid, results = join(case, [votes], plain, target.image)
    told: list[str] = []
    arguments = (case, [votes], PLAIN, target.image, None, None, grid, results, [], lambda e: told.append(e.message))
    return rearranged(*arguments), told, grid


def test_a_run_says_what_it_corrected_and_gives_it_to_the_structure_it_might_be_too(engine):
    (grid, results, moved), told, before = voted(engine, with_stray_spleen(), {2: 1})
    changed = before.array != grid.array
    assert changed.sum() == 72 and (grid.array[changed] == 1).all()
    assert [one["name"] for one in moved] == ["spleen"] and moved[0]["given"] == {"liver": 72}
    assert told == ["corrected: spleen, a piece of 0.22 ml (spleen is not left of liver and 2 more) was given to liver"]
    by_name = {one.structure.name: one for one in results}
    assert by_name["spleen"].voxels == (body() == 2).sum() and by_name["liver"].voxels == (grid.array == 1).sum()


def test_what_the_user_drew_is_never_moved(engine):
    drawn = with_stray_spleen()
    given_ = Corrections(LabelMap(drawn, patient(drawn).labels.geometry, STRUCTURES), 0, (12,))
    (grid, _, moved), told, _ = voted(engine, drawn, {}, given_)
    assert not moved and not told and np.array_equal(grid.array, drawn)


def test_flagging_changes_no_voxel_and_reports_no_correction(engine):
    target = patient(with_stray_spleen())
    flag = segment([patient(body())], target.image, PLAIN.model_copy(update={"priors": "flag"}), engine=engine)
    assert flag.report()["corrected"] == [] and flag.provenance["settings"]["priors"] == "flag"
    correcting = segment([patient(body())], target.image, PLAIN, engine=engine)
    said = [line for line in correcting.warnings if line.startswith("corrected: ")]
    assert len(said) == len(correcting.report()["corrected"])
    assert bool(said) == (not np.array_equal(flag.labels.array, correcting.labels.array))


def test_a_move_is_a_frozen_value():
    move = Move(2, 5, None, ("a is not above b",), {})
    assert replace(move, voxels=6).voxels == 6 and move.voxels == 5


def noisy(seed: int) -> np.ndarray:
    """The body with some hundred stray voxels of all structures."""
    rng = np.random.default_rng(seed)
    labels = body()
    stray = rng.random(labels.shape) < 0.01
    labels[stray] = rng.integers(1, 5, int(stray.sum()))
    return labels


@given(st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_what_is_kept_of_a_scene_is_what_would_be_measured_anew(seed: int):
    labels = noisy(seed)
    kept = Scene(labels, SPACING, PRIOR, NAMES)
    for count in range(4):
        found = next(odd_pieces(kept, SINGLE), None)
        if found is None:
            break
        value, piece = found
        moved = taken(labels, value, piece, always(1 + count), np.ones(labels.shape, bool))
        kept.changed(piece.box, (value, *moved))
        fresh = Scene(labels, SPACING, PRIOR, NAMES)
        for one in VALUES:
            told, agrees = kept.judged(one)
            again, agree = fresh.judged(one)
            assert told == again and np.array_equal(agrees, agree)


@given(st.integers(0, 2**16), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_the_runner_up_is_the_most_probable_other_structure(seed: int, value: int):
    rng = np.random.default_rng(seed)
    labels = (rng.random((3, 4, 5)) < 0.7).astype(np.uint16)
    totals = rng.choice(np.linspace(0, 1, 6, dtype=np.float32), (5, *labels.shape))  # with ties
    ranked = Ranked(labels, {2: 0, 1: 1, 4: 2, 3: 3, 5: 4}, lambda column: totals[column])
    where = np.flatnonzero(labels)[::2]
    wanted, best = np.zeros(len(where), np.uint16), np.full(len(where), 0.5, np.float32)
    for other, column in {2: 0, 1: 1, 4: 2, 3: 3, 5: 4}.items():
        total = totals[column].ravel()[where]
        wins = (total > best) & (other != value)
        wanted[wins], best[wins] = other, total[wins]
    assert np.array_equal(ranked(where, value), wanted)
