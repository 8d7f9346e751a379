"""Dice, its rule for empty structures, tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rau.errors import InputError
from rau.evaluation.metrics import dice, dice_of_structures, dice_of_values, mean, mean_of
from rau.evaluation.tables import markdown, print_table
from rau.volume.volume import Geometry, LabelMap, Structure

masks = arrays.arrays(bool, (2, 3, 4))


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
