"""What is known of a structure in one slice, and which slices are to be looked at first."""

from __future__ import annotations

import numpy as np
import pytest

from rau.quality.slices import DOUBTFUL, MOST, SliceQuality, SliceSigns, row_dice, scored, slice_signs, to_review


def block(shape=(6, 10, 10)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[1:5, 2:8, 2:8] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_signs_are_taken_across_the_axis_and_only_where_the_structure_is(axis):
    moved = np.ascontiguousarray(np.moveaxis(block(), 0, axis))
    found = slice_signs(4, axis, moved, {"network": moved}, np.full(6, 0.8))
    assert [one.index for one in found] == [1, 2, 3, 4]
    assert all(one.agreement == 1 and one.iou == 0.8 and one.neighbours == 1 for one in found)
    assert found[0].area == pytest.approx(36 / 100)


def test_a_slice_where_the_sources_disagree_or_the_shape_jumps_scores_less():
    final, other = block(), block()
    other[2] = np.roll(other[2], 4, 0)
    final[4] = np.roll(final[4], 5, 1)
    found = {one.index: one for one in slice_signs(4, 0, final, {"a": final, "b": other}, np.ones(6))}
    assert found[2].agreement < found[3].agreement and found[2].score < found[3].score
    assert found[4].neighbours < 0.5


def test_a_picture_has_no_neighbours_and_still_a_score():
    final = block()[1:2]
    (found,) = slice_signs(4, 0, final, {"network": final}, np.array([1.0]))
    assert found.neighbours is None and found.score == 1


def test_the_score_of_a_slice_is_the_mean_of_its_structures_and_names_the_worst():
    signs = [
        SliceSigns(1, 3, 0.16, 1.0, 1.0, 1.0),
        SliceSigns(2, 3, 0.04, 0.2, 0.2, 0.2),
        SliceSigns(1, 5, 0.1, 0.5, 0.5, 0.5),
    ]
    first, second = scored(signs)
    assert (first.index, first.worst, second.index, second.worst) == (3, 2, 5, 1)
    assert first.score == pytest.approx((0.4 * 1.0 + 0.2 * 0.2) / 0.6) and second.score == pytest.approx(0.5)


def test_the_worst_slices_come_first_and_good_ones_are_left_out():
    slices = [SliceQuality(k, k / 40, 1) for k in range(41)]
    chosen = to_review(slices)
    assert [one.index for one in chosen] == list(range(MOST)) and all(one.score < DOUBTFUL for one in chosen)
    assert to_review([SliceQuality(0, 0.95, 1)]) == []


def test_rows_without_any_voxel_do_not_agree():
    empty = np.zeros((2, 5), bool)
    assert row_dice(empty, empty).tolist() == [0.0, 0.0]
