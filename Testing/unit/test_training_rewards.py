"""Rewards: text in, number out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.training.rewards import RewardWeights, average_precision_50, box_reward, label_reward, segment_reward
from rau.vlm.answers import write_boxes, write_label, write_segments
from rau.vlm.boxes import Convention

GRID = Convention("grid", 100)
NAMES = ("liver", "spleen")
TRUTH = {"liver": (0.1, 0.1, 0.5, 0.5), "spleen": None}
WEIGHTS = RewardWeights()
weights = st.builds(RewardWeights, *[st.floats(0, 4)] * 4)


def test_a_right_label_earns_both_terms_a_wrong_one_the_format_and_prose_nothing():
    assert label_reward(write_label("liver"), "liver", NAMES) == 1.25
    assert label_reward(write_label("spleen"), "liver", NAMES) == 0.25
    assert label_reward(write_label("kidney"), "liver", NAMES) == 0
    assert label_reward("It is the liver.", "liver", NAMES) == 0


def test_the_true_boxes_earn_everything():
    assert box_reward(write_boxes(TRUTH, GRID), TRUTH, GRID) == 1.25


def test_a_box_moved_away_earns_its_overlap_and_no_hit():
    moved = {"liver": (0.3, 0.1, 0.7, 0.5), "spleen": None}  # IoU 1/3
    assert box_reward(write_boxes(moved, GRID), TRUTH, GRID) == pytest.approx(0.25 + 0.5 * (1 / 3 + 1) / 2 + 0.5 * 0.5)


def test_inventing_an_absent_structure_and_denying_a_present_one_earn_the_format_alone():
    text = write_boxes({"liver": None, "spleen": (0.1, 0.1, 0.5, 0.5)}, GRID)
    assert box_reward(text, TRUTH, GRID) == 0.25


def test_leaving_an_absent_structure_out_is_not_an_answer():
    assert box_reward(write_boxes({"liver": TRUTH["liver"]}, GRID), TRUTH, GRID) == pytest.approx(0.5 / 2 + 0.5 / 2)


def test_good_boxes_in_a_bad_format_earn_their_place_without_the_format():
    assert box_reward("Boxes: " + write_boxes(TRUTH, GRID, think=None), TRUTH, GRID) == 1.0


def test_repeating_a_box_earns_nothing_more():
    text = write_boxes(TRUTH, GRID).replace("[{", '[{"label": "liver", "bbox_2d": [10, 10, 50, 50]}, {', 1)
    assert box_reward(text, TRUTH, GRID) == 1.0


def test_segments_earn_their_dice_and_the_exact_count_of_tokens():
    good = write_segments({"liver": True, "spleen": False})
    assert segment_reward(good, NAMES, (0.8, 0.6)) == pytest.approx(0.95)
    assert segment_reward(good.replace("<Seg>", "<Seg> <Seg>"), NAMES, (0.8, 0.6)) == pytest.approx(0.7)


def test_average_precision_counts_the_structures_from_an_iou_of_a_half():
    assert average_precision_50([0.49, 0.5, 1.0, 0.0]) == 0.5


def test_what_cannot_be_rewarded_is_refused():
    with pytest.raises(ValueError, match="one structure"):
        box_reward("", {}, GRID)
    for dice in ((0.5,), (0.5, 1.1), (0.5, float("nan"))):
        with pytest.raises(ValueError, match="Dice"):
            segment_reward("", NAMES, dice)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weights"):
            RewardWeights(iou=bad)


span = st.tuples(st.integers(0, 98), st.integers(1, 99)).map(lambda s: (s[0], min(100, s[0] + s[1])))
boxes = st.none() | st.tuples(span, span).map(lambda s: (s[0][0] / 100, s[1][0] / 100, s[0][1] / 100, s[1][1] / 100))
layouts = st.fixed_dictionaries(dict.fromkeys(NAMES, boxes))
answers = st.text() | layouts.map(lambda said: write_boxes(said, GRID)) | st.sampled_from(NAMES).map(write_label)


@given(answers, layouts, weights, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_every_reward_stays_in_its_range(text, truth, w, dice):
    assert 0 <= label_reward(text, "liver", NAMES, w) <= w.answer + w.format
    assert 0 <= box_reward(text, truth, GRID, w) <= (w.format + w.iou + w.ap) * (1 + 1e-12)
    assert 0 <= segment_reward(text, NAMES, dice, w) <= (1 + w.format) * (1 + 1e-12)


@given(layouts, layouts)
def test_no_answer_beats_the_truth(truth, said):
    best = box_reward(write_boxes(truth, GRID), truth, GRID)
    assert best == pytest.approx(1.25) and box_reward(write_boxes(said, GRID), truth, GRID) <= best + 1e-12
