"""Dice, its rule for empty structures, tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from builders import rotation
from rau.errors import InputError
from rau.evaluation.metrics import (
    agreement,
    average_surface_distance,
    dice,
    dice_of_structures,
    dice_of_values,
    hausdorff95,
    iou,
    mean,
    mean_of,
    surface_distances,
    surface_of,
)
from rau.evaluation.tables import markdown, print_table
from rau.volume.volume import Geometry, LabelMap, Structure

masks = arrays.arrays(bool, (2, 3, 4))
flat = arrays.arrays(bool, (1, 4, 5))
GRID = Geometry((2, 3, 4), (3.0, 0.5, 1.25), (7.0, -4.0, 9.0))
OBLIQUE = Geometry((2, 3, 4), (3.0, 0.5, 1.25), (7.0, -4.0, 9.0), rotation(3))


@given(masks, masks)
def test_dice_is_symmetric_and_between_0_and_1(one, other):
    score = dice(one, other)
    assert score == dice(other, one)
    assert score is None if not (one.any() or other.any()) else 0 <= score <= 1


@given(masks)
def test_dice_of_itself_is_one_and_of_its_opposite_nought(one):
    assert dice(one, one) == (1.0 if one.any() else None)
    assert dice(one, ~one) == 0.0


def test_dice_of_a_known_pair():
    one, other = np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4), bool)
    one[0, :2], other[0, 1:] = True, True  # 8 and 12 pixels, 4 shared
    assert dice(one, other) == pytest.approx(0.4)


@given(masks, masks)
def test_iou_counts_voxels_and_is_symmetric(one, other):
    either = np.count_nonzero(one | other)
    assert iou(one, other) == iou(other, one)
    assert iou(one, other) == (pytest.approx(np.count_nonzero(one & other) / either) if either else None)


def neighbours(mask, place):
    """The values of the voxels that share a face with it; what is outside counts as background."""
    for axis in (a for a in range(3) if mask.shape[a] > 1):
        for step in (-1, 1):
            beside = list(place)
            beside[axis] += step
            yield 0 <= beside[axis] < mask.shape[axis] and mask[tuple(beside)]


@given(st.one_of(masks, flat))
def test_the_surface_is_what_touches_the_background(mask):
    brute = {tuple(place) for place in np.argwhere(mask) if not all(neighbours(mask, place))}
    assert {tuple(place) for place in surface_of(mask)} == brute


@settings(deadline=None)
@given(masks, masks, st.sampled_from([GRID, OBLIQUE]))
def test_distances_equal_those_of_all_pairs_in_the_world(one, other, grid):
    found = surface_distances(one, other, grid)
    if not (one.any() and other.any()):
        assert found is None
        return
    a, b = grid.to_world(surface_of(one)), grid.to_world(surface_of(other))
    pairs = np.linalg.norm(a[:, None] - b[None], axis=2)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    assert np.allclose(found[0], there) and np.allclose(found[1], back)
    assert average_surface_distance(found) == pytest.approx((there.sum() + back.sum()) / (len(there) + len(back)))
    assert hausdorff95(found) == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))


def map_of(mask, grid=GRID):
    return LabelMap(mask.astype(np.uint8), grid, (Structure(1, "liver"),))


@settings(deadline=None)
@given(masks, masks, st.sampled_from([GRID, OBLIQUE]))
def test_agreement_is_symmetric_but_for_the_volumes(one, other, grid):
    there = agreement(map_of(one, grid), map_of(other, grid), "liver")
    back = agreement(map_of(other, grid), map_of(one, grid), "liver")
    assert (there.dice, there.iou, there.truth_ml) == (back.dice, back.iou, back.result_ml)
    for first, second in ((there.surface, back.surface), (there.hausdorff95, back.hausdorff95)):
        assert (first is None) == (second is None)
        assert first is None or first == pytest.approx(second)


@settings(deadline=None)
@given(masks)
def test_a_mask_agrees_with_itself_and_a_crop_changes_nothing(mask):
    own = agreement(map_of(mask), map_of(mask), "liver")
    wide = np.zeros((6, 9, 11), bool)
    wide[2:4, 3:6, 4:8] = mask
    larger = Geometry((6, 9, 11), GRID.spacing)
    again = agreement(map_of(wide, larger), map_of(np.roll(wide, 1, axis=2), larger), "liver")
    if not mask.any():
        assert (own.dice, own.surface, own.hausdorff95, own.difference) == (None, None, None, None)
        return
    assert (own.dice, own.iou, own.surface, own.hausdorff95, own.difference) == (1, 1, 0, 0, 0)
    assert own.truth_ml == pytest.approx(np.count_nonzero(mask) * 3 * 0.5 * 1.25 / 1000)
    whole = surface_distances(wide, np.roll(wide, 1, axis=2), larger)
    assert again.surface == pytest.approx(average_surface_distance(whole))
    assert again.hausdorff95 == pytest.approx(hausdorff95(whole))


def test_absent_in_one_has_no_distance_and_no_share():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    missed, invented = (agreement(map_of(a), map_of(b), "liver") for a, b in ((full, empty), (empty, full)))
    assert (missed.dice, missed.surface, missed.difference) == (0, None, -1)
    assert (invented.dice, invented.surface, invented.difference) == (0, None, None)


def test_dice_refuses_other_shapes():
    with pytest.raises(InputError, match="cannot be compared"):
        dice(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))


def test_absent_in_both_has_no_score_and_absent_in_one_is_nought():
    truth, result = np.array([[[1, 1, 2, 0]]]), np.array([[[1, 1, 0, 4]]])
    found = dice_of_values(truth, result, (1, 2, 3, 4))
    assert found == {1: 1.0, 2: 0.0, 3: None, 4: 0.0}
    assert mean_of(found) == pytest.approx(1 / 3)
    assert mean([None, None]) is None


def test_structures_are_looked_up_by_name():
    grid = Geometry((1, 2, 2))
    truth = LabelMap(np.array([[[1, 1], [2, 2]]]), grid, (Structure(1, "liver"), Structure(2, "spleen")))
    result = LabelMap(np.array([[[7, 7], [2, 0]]]), grid, (Structure(7, "Liver"), Structure(2, "stomach")))
    assert dice_of_structures(truth, result) == {"liver": 1.0, "spleen": 0.0}
    assert dice_of_structures(truth, result, result.structures) == {"Liver": 1.0, "stomach": 0.0}


def test_other_grids_are_refused():
    one, other = Geometry((1, 2, 2)), Geometry((1, 2, 2), origin=(0, 0, 5))
    empty = np.zeros((1, 2, 2), np.uint8)
    with pytest.raises(InputError, match="another grid"):
        dice_of_structures(LabelMap(empty, one), LabelMap(empty, other))


@given(st.floats(0, 1))
def test_markdown_rows_fit_their_columns(score):
    table = markdown(["set", "Dice"], [["a|b", score], ["c", None], ["d", 3]]).splitlines()
    assert len(table) == 5 and table[0] == "| set | Dice |"
    assert table[2] == f"| a\\|b | {score:.3f} |" and table[3] == "| c | – |" and table[4] == "| d | 3 |"


def test_a_printed_table_holds_every_cell(capsys):
    print_table("Dice by set", ["set", "Dice", "n"], [["a very long name of a set" * 3, 0.12345, 4], ["b", None, 5]])
    told = capsys.readouterr().out
    assert "a very long name of a set" * 3 in told and "0.123" in told and "–" in told
