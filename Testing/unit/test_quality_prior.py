"""Structural priors: learnt from references, broken by impossible layouts, silent on possible ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rau.quality.layout import measure
from rau.quality.prior import Relation, findings, holds, learn

SPACING = (3.0, 1.0, 1.0)
NAMES = {1: "liver", 2: "spleen", 3: "lesion", 4: "bladder"}


def body() -> np.ndarray:
    """(20, 40, 40): liver (1) at the right, spleen (2) at the left, a lesion (3) in the liver, bladder (4) below."""
    labels = np.zeros((20, 40, 40), np.uint16)
    labels[10:18, 10:30, 4:18] = 1
    labels[11:16, 14:26, 24:34] = 2
    labels[12:15, 15:20, 8:12] = 3
    labels[2:6, 8:20, 15:23] = 4
    return labels


def learnt():
    return learn([measure(body(), SPACING, (1, 2, 3, 4))])


def told(labels: np.ndarray):
    return findings(learnt(), measure(labels, SPACING, (1, 2, 3, 4)), NAMES)


def test_relations_are_learnt_from_one_reference():
    relations = set(learnt().relations)
    assert {Relation("left of", 2, 1), Relation("inside", 3, 1), Relation("above", 1, 4)} <= relations
    assert Relation("left of", 1, 2) not in relations and Relation("touching", 1, 2) not in relations


def test_the_reference_breaks_none_of_its_own_priors():
    assert all(not one.broken and one.checked for one in told(body()).values())


def test_left_and_right_exchanged_is_told_in_words():
    found = told(np.ascontiguousarray(body()[:, :, ::-1]))
    assert "spleen is not left of liver" in found[1].broken and "spleen is not left of liver" in found[2].broken
    assert found[2].relations >= 1 and 0 < found[2].share <= 1


def test_upside_down_is_told():
    assert "liver is not above bladder" in told(np.ascontiguousarray(body()[::-1]))[4].broken


def test_a_lesion_outside_of_its_organ_is_told():
    labels = body()
    labels[labels == 3] = 1
    labels[12:15, 2:7, 24:28] = 3
    assert "lesion is not inside liver" in told(labels)[3].broken


def test_what_is_too_large_or_too_long_is_told_with_units():
    labels = body()
    labels[2:18, 8:39, 24:39] = 2
    broken = told(labels)[2].broken
    assert any(one.startswith("too large") and " ml" in one for one in broken)
    thin = body()
    thin[thin == 2] = 0
    thin[13, 20, 24:34] = 2
    assert any(one.startswith("too small") for one in told(thin)[2].broken)


def test_what_is_cut_off_by_the_edge_has_no_size_to_speak_of():
    labels = body()
    labels[labels == 2] = 0
    labels[13:15, 20:22, 38:40] = 2
    assert not any("ml" in one for one in told(labels)[2].broken)


def test_more_references_narrow_the_range_and_drop_relations_that_differ():
    other = body()
    other[other == 4] = 0
    other[2:6, 8:20, 28:38] = 4
    layouts = [measure(one, SPACING, (1, 2, 3, 4)) for one in (body(), other)]
    one, both = learn(layouts[:1]), learn(layouts)
    assert both.ranges[1].size[1] < one.ranges[1].size[1]
    assert Relation("left of", 4, 1) in both.relations
    apart = {Relation("left of", 2, 4), Relation("left of", 4, 2)}
    assert apart & set(one.relations) and not apart & set(both.relations)


def test_structures_that_are_not_shown_are_not_asked_about():
    labels = body()
    labels[labels == 2] = 0
    found = told(labels)
    assert 2 not in found and not any("spleen" in word for one in found.values() for word in one.broken)
    assert findings(learnt(), measure(np.zeros_like(labels), SPACING, (1, 2)), NAMES) == {}


def test_a_picture_is_measured_in_shares_and_spoken_of_as_a_picture():
    labels = body()[13:14]
    layout = measure(labels, (1.0, 7.0, 7.0), (1, 2, 3))
    assert layout.flat and layout.size[0] == pytest.approx((labels == 1).mean())
    prior = learn([layout])
    assert Relation("left of", 1, 2) in prior.relations
    assert not {one.kind for one in prior.relations} - {"left of", "above", "inside", "touching"}
    flipped = findings(prior, measure(np.ascontiguousarray(labels[:, :, ::-1]), SPACING, (1, 2, 3)), NAMES)
    assert "liver is not left of spleen" in flipped[1].broken


@given(st.tuples(*[st.integers(-2, 2)] * 3), st.floats(0.8, 1.25))
@settings(max_examples=30, deadline=None)
def test_priors_do_not_depend_on_where_the_body_lies_and_little_on_its_scale(step, scale):
    moved = np.roll(np.pad(body(), 3), step, (0, 1, 2))
    layout = measure(moved, tuple(s * scale for s in SPACING), (1, 2, 3, 4))
    assert all(not one.broken for one in findings(learnt(), layout, NAMES).values())


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_every_relation_learnt_holds_where_it_was_learnt(seed):
    labels = np.random.default_rng(seed).integers(0, 5, (4, 5, 6)).astype(np.uint16)
    layout = measure(labels, SPACING, (1, 2, 3, 4))
    assert all(holds(one, layout) for one in learn([layout]).relations)
