"""Slices matched in monotone order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rau.references.retrieval import align, cosines, nearby, position_prior


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.floats(0.3, 3.0))
@settings(max_examples=80, deadline=None)
def test_the_matched_slice_never_goes_back(targets, references, seed, step):
    similarity = np.random.default_rng(seed).uniform(-1, 1, (targets, references))
    found = align(similarity, step)
    assert (np.diff(found.index) >= 0).all()
    assert ((found.index >= 0) & (found.index < references)).all()
    assert np.array_equal(found.similarity, similarity[np.arange(targets), found.index])


def test_a_volume_is_matched_to_itself_slice_by_slice():
    descriptors = unit(np.random.default_rng(0).normal(size=(30, 16)))
    found = align(cosines(descriptors, descriptors))
    assert np.array_equal(found.index, np.arange(30))
    assert np.allclose(found.similarity, 1)


def test_a_part_of_a_volume_is_found_where_it_was_cut_out():
    walk = np.cumsum(np.random.default_rng(1).normal(size=(60, 8)), 0)
    descriptors = unit(walk - walk.mean(0))
    found = align(cosines(descriptors[10:25], descriptors))
    assert np.abs(found.index - np.arange(10, 25)).max() <= 1


def test_without_descriptors_position_decides():
    assert np.array_equal(align(np.zeros((20, 20))).index, np.arange(20))
    stretched = align(np.zeros((10, 20)), step=2.0).index
    assert np.abs(stretched - np.arange(10) * 19 / 9).max() <= 1


def test_the_prior_is_one_on_the_diagonal_of_equal_volumes():
    prior = position_prior(12, 12, 1.0)
    assert np.allclose(np.diag(prior), 1) and prior[0, -1] < 0.01


def test_nearby_slices_are_within_reach_and_nearest_first():
    assert nearby(10, np.array([2, 8, 9, 13, 40]), 3, 4) == [9, 8, 13]
    assert nearby(10, np.array([], int), 3, 4) == []
    assert nearby(10, np.array([30]), 3, 4) == []
