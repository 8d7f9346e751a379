"""The error of corrected slices is carried to those nearby: towards the truth, the less the further, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.assembly.carrying import SHARE, carried, ended, mixed, shape_between, share_between, signed, weights
from rau.corrections import Corrected

SPACING = (3.0, 1.0, 1.0)


def balls(radius, count=20, side=48, value=1):
    """The same disc in every slice but the first and last three."""
    rows, columns = np.mgrid[:side, :side]
    disc = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < radius**2
    labels = np.zeros((count, side, side), np.uint16)
    labels[3:-3, disc] = value
    return labels


def corrections(truth, slices, axis=0):
    kept = np.zeros_like(truth)
    there, ours = np.moveaxis(kept, axis, 0), np.moveaxis(truth, axis, 0)
    there[list(slices)] = ours[list(slices)]
    return Corrected(axis, tuple(slices), kept)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_signed_distances_are_positive_inside_in_mm_and_cut_off():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    found = signed(mask, (2.0, 1.0), 2.5)
    assert found[4, 4] == 2.5 and found[4, 2] == 1.0 and found[4, 1] == -1.0 and found[0, 4] == -2.5
    assert (signed(np.zeros((3, 3), bool), (1.0, 1.0), 4.0) == -4).all()
    assert (signed(np.ones((3, 3), bool), (1.0, 1.0), 4.0) > 0).all()


@given(st.sets(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 30), st.floats(1.0, 8.0))
def test_weights_are_those_of_the_nearest_corrected_slices_and_fall_with_distance(slices, t, deviation):
    chosen = sorted(slices - {t})
    if not chosen:
        return
    found = weights(chosen, t, deviation)
    away = min(abs(s - t) for s in chosen)
    assert set(found) <= set(chosen) and len(found) <= 2
    assert sum(found.values()) == pytest.approx(SHARE * np.exp(-0.5 * (away / deviation) ** 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_of_a_corrected_slice_come_nearer_to_the_truth_and_far_ones_stay(axis):
    found, truth = (np.moveaxis(balls(radius), 0, axis) for radius in (8, 13))
    spacing = np.ones(3)
    spacing[axis] = 3.0
    after = carried(found, corrections(truth, [10], axis), spacing)
    slices = [np.moveaxis(one, axis, 0) > 0 for one in (found, truth, after)]
    gains = [dice(slices[2][t], slices[1][t]) - dice(slices[0][t], slices[1][t]) for t in range(3, 17)]
    assert gains[6] > 0.05 and gains[8] > 0.05, "the slices beside the corrected one"
    assert gains[0] == 0 and min(gains) >= 0
    assert np.array_equal(slices[2][10], slices[0][10]), "the corrected slice itself is laid on later"


def test_where_nothing_was_wrong_nothing_changes():
    found = balls(9)
    found[8:12, 2:6, 2:6] = 3
    assert np.array_equal(carried(found, corrections(found, [5, 10]), SPACING), found)


def test_only_the_structure_that_was_wrong_changes():
    found, truth = balls(8), balls(12)
    for one in (found, truth):
        one[4:16, 2:8, 2:40] = 2
    after = carried(found, corrections(truth, [9]), SPACING)
    assert np.array_equal(after == 2, found == 2)
    assert (after[8] == 1).sum() > (found[8] == 1).sum()


def test_a_structure_removed_by_the_user_shrinks_nearby_and_one_drawn_anew_does_not_flood():
    found = balls(10)
    after = carried(found, corrections(np.zeros_like(found), [10]), SPACING)
    assert (after[11] > 0).sum() < (found[11] > 0).sum() and np.array_equal(after[16], found[16])
    nothing = np.zeros_like(found)
    drawn = carried(nothing, corrections(found, [10]), SPACING)
    assert (drawn > 0).sum(axis=(1, 2)).max() <= (found[10] > 0).sum()
    assert not drawn[:8].any() and not drawn[13:].any()


def test_the_result_is_a_new_array():
    found, truth = balls(8), balls(12)
    before = found.copy()
    assert carried(found, corrections(truth, [9]), SPACING) is not found
    assert np.array_equal(found, before)


def disc(side, centre, radius, inner=0.0):
    rows, columns = np.mgrid[:side, :side]
    away = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
    return (away < radius**2) & (away >= inner**2)


@given(st.floats(0.0, 1.0), st.integers(12, 28), st.integers(12, 28), st.integers(5, 10), st.integers(5, 10))
def test_the_shape_between_two_discs_is_the_disc_on_the_way_whether_they_touch_or_not(part, row, column, first, second):
    ends = [disc(40, (20.3, 14.4), first), disc(40, (row + 0.17, column + 0.38), second)]  # few distances are alike
    score, alike = shape_between(*(signed(one, (1.0, 1.0), 20.0) for one in ends), part)
    middle = (1 - part) * np.array([20.3, 14.4]) + part * np.array([row + 0.17, column + 0.38])
    area = (1 - part) * ends[0].sum() + part * ends[1].sum()
    wanted = disc(40, middle, np.sqrt(area / np.pi))
    assert dice(score > 0, wanted) > 0.8 and abs((score > 0).sum() / area - 1) < 0.2
    assert alike > (0.8 if first == second else 0.3)


def test_thin_shapes_that_lie_beside_each_other_do_not_vanish_where_they_are_mixed():
    rings = [disc(48, (24.3, 23.6), 10, 8), disc(48, (23.1, 24.2), 16, 14)]
    score = mixed(*(signed(one, (1.0, 1.0), 20.0) for one in rings), 0.5)
    assert (score > 0).sum() == pytest.approx(sum(int(ring.sum()) for ring in rings) / 2, rel=0.15)
    nothing = signed(np.zeros((48, 48), bool), (1.0, 1.0), 20.0)
    assert not (mixed(signed(rings[0], (1.0, 1.0), 20.0), nothing, 0.9) > 0).any()


def test_between_corrected_slices_the_shape_counts_where_they_are_alike_and_what_was_found_is_wrong():
    truth, found = np.zeros((9, 48, 48), np.uint16), np.zeros((9, 48, 48), np.uint16)
    for t in range(9):
        truth[t][disc(48, (16 + 2 * t, 24), 9)] = 1
        found[t][disc(48, (24, 24), 4)] = 1
    after = carried(found, corrections(truth, [3, 5]), SPACING)
    assert dice(after[4] > 0, truth[4] > 0) > 0.9 > 0.5 > dice(found[4] > 0, truth[4] > 0)
    same = share_between(found > 0, truth > 0, (3, 5), 0.5, 0.0)
    other = share_between(found > 0, truth > 0, (3, 5), 0.5, 1.0)
    assert same == 1 and 0 < other < 0.7 and share_between(truth > 0, truth > 0, (3, 5), 0.5, 0.0) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
@given(st.dictionaries(st.integers(0, 11), st.booleans(), min_size=1))
def test_a_structure_in_one_piece_is_in_no_slice_beyond_a_corrected_one_without_it(axis, drawn):
    shape = np.ones(3, int)
    shape[axis] = 12
    truth = np.zeros(tuple(shape), np.uint16)
    np.moveaxis(truth, axis, 0)[[t for t, shown in drawn.items() if shown]] = 1
    given_slices = corrections(truth, sorted(drawn), axis)
    kept = ended(np.ones(tuple(shape), np.uint16), given_slices, [1]).ravel()
    shown = [t for t in drawn if drawn[t]]
    for t in range(12):
        below = shown and any(t <= e < min(shown) for e in drawn)
        above = shown and any(t >= e > max(shown) for e in drawn)
        assert bool(kept[t]) != bool(below or above)


def test_structures_in_several_pieces_and_others_keep_their_slices_beyond_a_corrected_one():
    labels = np.array([1, 1, 1, 1, 2, 2], np.uint16)[:, None, None]
    drawn = corrections(np.array([0, 1, 0, 0, 0, 0], np.uint16)[:, None, None], [1, 3])
    assert ended(labels.copy(), drawn, []).ravel().tolist() == [1, 1, 1, 1, 2, 2]
    assert ended(labels.copy(), drawn, [1, 2]).ravel().tolist() == [1, 1, 1, 0, 2, 2]
