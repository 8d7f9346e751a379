"""Where structures end along the slices: one run of slices for one piece, by all signs together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.assembly import ends
from rau.assembly.ends import Signs, best_run, presence_of
from rau.assembly.labels import PlaneVotes, voted
from rau.sam.propagation import SliceMasks

numbers = st.lists(st.floats(-5, 5).map(lambda v: round(v, 3)), min_size=1, max_size=12)


def signs(count: int, inside: slice, presence: float = 0.9) -> Signs:
    """A structure that the network sees everywhere; matched slices and areas say that it is only `inside`."""
    there = np.zeros(count, bool)
    there[inside] = True
    first, last = np.nonzero(there)[0][[0, -1]]
    index = np.arange(count)
    away = np.maximum(first - index, index - last) / (last - first + 1)
    area = np.where(there, 100.0, 20.0)
    return Signs(np.ones(count, bool), np.full(count, presence), np.full(count, 0.6), area, away)


@given(numbers)
def test_the_run_found_is_the_one_of_largest_sum(odds):
    run = best_run(np.array(odds))
    sums = {(a, b): sum(odds[a : b + 1]) for a in range(len(odds)) for b in range(a, len(odds))}
    best = max(sums.values())
    if run is None:
        assert best <= 1e-9
    else:
        assert sums[run] == pytest.approx(best)


def test_a_structure_does_not_flood_past_the_slices_that_fit_it():
    found = presence_of(signs(30, slice(10, 20)), 0.5, single=True)
    assert found[12:18].all() and not found[:8].any() and not found[22:].any()


def test_one_piece_is_there_in_one_run_of_slices():
    one = signs(30, slice(5, 25))
    holed = Signs(one.asked, np.where(np.arange(30) == 14, 0.02, one.presence), one.iou, one.area, one.beyond)
    found = presence_of(holed, 0.5, single=True)
    steps = np.abs(np.diff(np.r_[0, found, 0])).sum()
    assert steps == 2 and found[14] == 1


def test_slices_in_which_the_network_was_not_asked_are_never_present():
    one = signs(20, slice(5, 15))
    asked = np.arange(20) >= 8
    some = Signs(asked, one.presence, one.iou, one.area, one.beyond)
    for single in (True, False):
        assert not presence_of(some, 0.5, single)[:8].any()
    assert np.array_equal(presence_of(some, 0.0, True), asked)


def test_a_higher_threshold_never_adds_slices():
    one = signs(30, slice(8, 22), 0.8)
    low, high = (presence_of(one, threshold, True) for threshold in (0.3, 0.95))
    assert high.sum() <= low.sum() and not (high > low).any()


def test_votes_beyond_the_end_of_a_structure_do_not_count():
    count = 30
    votes = PlaneVotes((4,), (count, 4, 4), 0, (4,))
    known = signs(count, slice(10, 20))
    for t in range(count):
        mask = np.zeros((1, 4, 4), np.float32)
        mask[0, :2] = 0.9
        past = known.beyond[t : t + 1]
        votes.add(SliceMasks(t, (4,), mask, np.array([0.9]), np.array([0.6]), 0, t, 1.0, beyond=past))
    total = voted([votes], 0, 0.5)
    assert (total[12:18, :2] > 0.85).all() and not total[:6].any() and not total[24:].any()
    assert (voted([votes], 0, 0.0)[:, :2] > 0.85).all()


def test_the_distance_beyond_the_reference_counts_against_a_structure():
    assert len(ends.COEFFICIENTS) == 6 and ends.COEFFICIENTS[-1] < 0
