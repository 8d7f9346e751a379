"""Boxes and structures assigned to each other, all at once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ot")

from rau.matching.cost import cost_matrix, frame_of, named_probability, own_frames, shared_frames
from rau.matching.transport import (
    TAU,
    assign,
    collapsed,
    match_boxes,
    match_until,
    transport_plan,
    unmatched,
)
from rau.vlm.boxes import as_array, centres, sizes

GLOBAL = ("transport", "hungarian")
METHODS = (*GLOBAL, "independent")


def layout(rng: np.random.Generator, count: int = 12) -> np.ndarray:
    """(count, 4) boxes anywhere in the picture."""
    centre, size = rng.uniform(0.15, 0.85, (count, 2)), rng.uniform(0.05, 0.2, (count, 2))
    return np.hstack([centre - size / 2, centre + size / 2])


def patient(rng: np.random.Generator, reference: np.ndarray) -> np.ndarray:
    """The same layout in another patient: a similarity transform, and jitter of places and sizes."""
    scale, shift, angle = rng.uniform(0.8, 1.25), rng.uniform(-0.1, 0.1, 2), rng.uniform(-0.1, 0.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (centres(reference) - 0.5) @ turn * scale + 0.5 + shift + rng.normal(0, 0.01, (len(reference), 2))
    size = sizes(reference) * scale * np.exp(rng.normal(0, 0.1, (len(reference), 2)))
    return np.hstack([centre - size / 2, centre + size / 2])


@cache
def trial(missing: int, rounds: int = 40) -> dict[str, float]:
    """Share of boxes whose structure is right; "names": of the VLM's own names, right 65 % of the time or by chance."""
    rng, right = np.random.default_rng(7), {method: [] for method in (*METHODS, "names")}
    for _ in range(rounds):
        reference = layout(rng)
        order = rng.permutation(12)[: 12 - missing]
        boxes = patient(rng, reference)[order]
        said = np.where(rng.random(len(order)) < 0.65, order, rng.integers(0, 12, len(order)))
        right["names"].append(np.mean(said == order))
        for method in METHODS:
            found = match_boxes(boxes, named_probability(said.tolist(), 12), reference, method)
            right[method].append(np.mean([found.boxes[j] == i for i, j in enumerate(order)]))
    return {method: float(np.mean(shares)) for method, shares in right.items()}


# the trial of papers.md, A3.4


def test_matching_all_at_once_mends_names_that_are_right_two_times_in_three():
    share = trial(missing=0)
    assert 0.62 < share["names"] < 0.72 and share["independent"] <= share["names"]
    assert share["hungarian"] > 0.95 and share["transport"] > 0.95
    assert share["transport"] >= max(share["hungarian"], share["independent"]) - 0.01


@pytest.mark.parametrize("missing, least", [(3, 0.85), (6, 0.75)])
def test_it_mends_names_also_where_structures_are_missing(missing, least):
    share = trial(missing)
    assert share["transport"] > max(least, share["independent"] + 0.1, share["names"] + 0.1)
    assert abs(share["transport"] - share["hungarian"]) <= 0.01


# cases of papers.md, A10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_a_target_equal_to_the_reference_gives_the_reference_layout_at_no_cost(method, count):
    reference = layout(np.random.default_rng(0), count)
    found = match_boxes(reference, np.eye(count), reference, method)
    assert found.boxes == tuple(range(count)) and found.costs == (0.0,) * count


@pytest.mark.parametrize("method", METHODS)
def test_with_fewer_boxes_than_structures_the_others_stay_unmatched(method):
    reference = layout(np.random.default_rng(1), 6)
    found = match_boxes(reference[[4, 0, 2]], named_probability([4, 0, 2], 6), reference, method)
    assert found.boxes == (1, None, 2, None, 0, None) and unmatched(found) == [1, 3, 5]


@pytest.mark.parametrize("method", METHODS)
def test_with_more_boxes_than_structures_the_surplus_goes_to_the_dustbin(method):
    reference = layout(np.random.default_rng(2), 6)
    boxes = np.vstack([[(0.0, 0.0, 0.01, 0.9)], reference, [(0.9, 0.9, 1.0, 0.91)]])
    found = match_boxes(boxes, named_probability([None, *range(6), None], 6), reference, method)
    assert found.boxes == tuple(range(1, 7))


@pytest.mark.parametrize("method", METHODS)
def test_without_boxes_nothing_is_found_and_without_structures_nothing_is_asked(method):
    assert match_boxes(np.zeros((0, 4)), np.zeros((0, 3)), layout(np.random.default_rng(0), 3), method).boxes == (
        None,
        None,
        None,
    )
    assert match_boxes(layout(np.random.default_rng(0), 3), np.zeros((3, 0)), np.zeros((0, 4)), method).boxes == ()


@pytest.mark.parametrize("method", METHODS)
def test_of_duplicate_boxes_one_is_taken_the_same_each_time(method):
    reference = layout(np.random.default_rng(3), 4)
    boxes = reference[[0, 0, 1, 2, 3, 3]]
    probability = named_probability([0, 0, 1, 2, 3, 3], 4)
    found = [match_boxes(boxes, probability, reference, method) for _ in range(2)]
    assert found[0] == found[1] and not unmatched(found[0])
    assert found[0].boxes[0] in (0, 1) and found[0].boxes[1:3] == (2, 3) and found[0].boxes[3] in (4, 5)


@pytest.mark.parametrize("method", GLOBAL)
def test_coincident_boxes_do_not_break_the_normalisation(method):
    boxes = np.tile([0.4, 0.4, 0.6, 0.6], (5, 1))
    assert frame_of(boxes) is None
    found = match_boxes(boxes, np.full((5, 5), 0.5), boxes, method)
    assert sorted(found.boxes) == list(range(5))


def test_a_lone_box_is_found_by_its_place_although_its_name_is_wrong():
    reference = layout(np.random.default_rng(4), 8)
    found = match_boxes(reference[[5]], named_probability([2], 8), reference)
    assert found.boxes[5] == 0 and len(unmatched(found)) == 7


# cost and plan


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 2), st.floats(-1, 1), st.floats(-1, 1))
@settings(max_examples=30)
def test_translation_and_scale_between_patients_cost_nothing(seed, scale, x, y):
    reference = layout(np.random.default_rng(seed), 5)
    boxes = reference * scale + np.array([x, y, x, y])
    assert np.allclose(np.diag(cost_matrix(boxes, np.eye(5), reference)), 0, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=40)
def test_every_match_is_one_to_one_within_tau_and_repeatable(seed, n, m):
    rng = np.random.default_rng(seed)
    boxes, reference, probability = layout(rng, n), layout(rng, m), rng.random((n, m))
    cost = cost_matrix(boxes, probability, reference)
    assert cost.shape == (n, m) and (cost >= 0).all() and (cost <= 1).all()
    for method in METHODS:
        found = assign(cost, method, probability=probability)
        taken = [i for i in found.boxes if i is not None]
        assert (
            len(found.boxes) == m and len(set(taken)) == len(taken) and found == assign(cost, method, TAU, probability)
        )
        assert [None if i is None else cost[i, j] for j, i in enumerate(found.boxes)] == list(found.costs)
        assert method == "independent" or all(c is None or c <= TAU for c in found.costs)


@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=30)
def test_the_plan_carries_every_box_and_structure_once(seed, n, m):
    plan = transport_plan(np.random.default_rng(seed).random((n, m)))
    assert plan.shape == (n + 1, m + 1) and (plan >= 0).all()
    assert np.allclose(plan[:n].sum(1), 1, atol=0.02) and np.allclose(plan[:, :m].sum(0), 1, atol=0.02)


def test_a_box_dearer_than_tau_is_left_even_if_it_is_the_only_one():
    cost = np.array([[0.46, 0.9], [0.9, 0.44]])
    assert [assign(cost, method).boxes for method in GLOBAL] == [(None, 1)] * 2
    assert assign(cost, "transport", tau=0.5).boxes == (0, 1)


def test_alone_every_box_keeps_its_name_and_the_most_probable_of_two_has_the_structure():
    probability = np.array([[0.6, 0.1], [0.7, 0.2], [0.7, 0.3]])
    assert assign(np.ones((3, 2)), "independent", probability=probability).boxes == (1, None)
    assert assign(np.array([[0.1, 0.2]]), "independent").boxes == (0, None)


def test_two_boxes_have_no_frame_and_share_that_of_the_reference():
    reference = layout(np.random.default_rng(5), 4)
    shared, own = shared_frames(reference), own_frames(reference[:2], reference)
    assert own.boxes is own.reference and own.boxes.unit == shared.boxes.unit


def test_shapes_that_do_not_agree_and_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="probabilities"):
        match_boxes(np.zeros((2, 4)), np.zeros((3, 2)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="no such method"):
        assign(np.zeros((2, 2)), "magic")


# collapse and asking again


def test_two_structures_on_one_place_have_collapsed_unless_they_do_so_in_the_reference():
    boxes = as_array([(0.1, 0.1, 0.3, 0.3), (0.101, 0.1, 0.3, 0.3), (0.6, 0.6, 0.8, 0.8)])
    found = assign(np.array([[0.3, 0.9, 0.9], [0.9, 0.1, 0.9], [0.9, 0.9, 0.1]]), "hungarian")
    assert collapsed(found, boxes) == [(1, 0)]
    assert collapsed(found, boxes, boxes) == []


def test_only_unmatched_structures_are_asked_again_and_at_most_twice():
    reference, asked = layout(np.random.default_rng(6), 5), []

    def ask_again(structures):
        asked.append(list(structures))
        there = [j for j in structures if j == 1 and len(asked) == 2]
        return reference[there], named_probability(there, 5)

    found = match_until(ask_again, reference[[0, 4]], named_probability([0, 4], 5), reference, absent=[3])
    assert asked == [[1, 2], [1, 2]] and found.asked_again == 2
    assert found.not_found == (2, 3) and found.boxes[1] == pytest.approx(tuple(reference[1]))
    assert found.costs[2] is None and found.costs[1] == pytest.approx(0.2 / 3.5)


def test_nothing_is_asked_again_where_all_is_found():
    reference = layout(np.random.default_rng(8), 4)
    found = match_until(pytest.fail, reference, np.eye(4), reference)
    assert found.asked_again == 0 and found.not_found == () and found.costs == (0.0,) * 4


def test_of_collapsed_structures_the_cheaper_keeps_the_box_and_both_are_asked_again():
    reference, asked = layout(np.random.default_rng(9), 6), []
    boxes = reference.copy()
    boxes[1] = boxes[0]
    near = reference.copy()
    near[1] = near[0] + 0.03  # so near that its neighbour's box is taken for it

    def ask_again(structures):
        asked.append(list(structures))
        return (near[[1]], named_probability([1], 6)) if len(asked) == 2 else (np.zeros((0, 4)), np.zeros((0, 6)))

    found = match_until(ask_again, boxes, np.eye(6), near)
    assert asked == [[0, 1], [1]] and found.not_found == ()
    assert found.boxes[0] == tuple(boxes[0]) and found.boxes[1] == tuple(near[1])
    lost = match_until(lambda structures: (np.zeros((0, 4)), np.zeros((0, 6))), boxes, np.eye(6), near)
    assert lost.not_found == (1,) and lost.boxes[0] == tuple(boxes[0]) and lost.asked_again == 2
