"""One label a voxel."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from rau.adaptation.gate import Evidence
from rau.adaptation.guide import Guide
from rau.assembly.labels import PRIOR_WEIGHT, PlaneVotes, assemble, confidence, drop_islands, preview, single_pieces
from rau.assembly.summary import summarise
from rau.sam.propagation import SliceMasks
from rau.volume.volume import Geometry, LabelMap, Structure


def masks(index: int, probability: dict[int, np.ndarray], presence: dict[int, float]) -> SliceMasks:
    values = tuple(probability)
    stacked = np.stack([probability[v] for v in values]).astype(np.float32)
    return SliceMasks(
        index, values, stacked, np.array([presence[v] for v in values]), np.full(len(values), 0.8), 0, 0, 1.0
    )


def test_a_voxel_goes_to_the_more_probable_structure():
    votes = PlaneVotes((4, 9), (1, 1, 3), 0)
    votes.add(masks(0, {4: np.array([[0.9, 0.6, 0.2]]), 9: np.array([[0.6, 0.8, 0.4]])}, {4: 1.0, 9: 1.0}))
    assert assemble([votes], 0.5).tolist() == [[[4, 9, 0]]]


def test_an_absent_structure_leaves_its_voxels_to_the_others():
    one = masks(0, {4: np.array([[0.9]]), 9: np.array([[0.6]])}, {4: 0.2, 9: 0.9})
    votes = PlaneVotes((4, 9), (1, 1, 1), 0)
    votes.add(one)
    assert assemble([votes], 0.5).item() == 9
    assert preview(one, 0.5).item() == 9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_votes_across_any_axis_land_on_the_same_voxels(axis):
    truth = np.random.default_rng(0).random((4, 5, 6)) > 0.5
    votes = PlaneVotes((1,), truth.shape, axis)
    for t in range(truth.shape[axis]):
        votes.add(masks(t, {1: np.take(truth, t, axis).astype(float)}, {1: 1.0}))
    assert np.array_equal(assemble([votes], 0.5) == 1, truth)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_that_were_not_segmented_are_between_those_beside_them(axis):
    shape = [4, 5, 6]
    shape[axis] = 7
    votes, plane = PlaneVotes((1, 8), tuple(shape), axis), tuple(n for k, n in enumerate(shape) if k != axis)
    for t, (probability, presence) in {1: (0.2, 1.0), 3: (0.8, 0.6), 4: (0.4, 0.6)}.items():
        votes.add(masks(t, {1: np.full(plane, probability)}, {1: presence}))
    votes.complete()
    found = np.moveaxis(votes.votes[1], axis, 0)[:, 0, 0] / 255
    assert found == pytest.approx([0.2, 0.2, 0.5, 0.8, 0.4, 0.4, 0.4], abs=0.005), "the ends as the nearest slice"
    assert votes.presence[:, 0] == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.6, 0.6, 0.6])
    assert votes.asked[:, 0].all() and not votes.asked[:, 1].any() and 8 not in votes.votes


def test_a_plane_of_which_every_slice_was_segmented_stays_as_it_is():
    votes = PlaneVotes((1,), (3, 2, 2), 0)
    for t in range(3):
        votes.add(masks(t, {1: np.full((2, 2), 0.3 * t)}, {1: 0.5 + 0.1 * t}))
    before, presence = votes.votes[1].copy(), votes.presence.copy()
    votes.complete()
    assert np.array_equal(votes.votes[1], before) and np.array_equal(votes.presence, presence)
    empty = PlaneVotes((1,), (3, 2, 2), 0)
    empty.complete()
    assert not empty.votes and not empty.presence.any()


def test_three_planes_are_averaged():
    planes = []
    for probability in (0.9, 0.8, 0.1):
        votes = PlaneVotes((1,), (1, 1, 1), 0)
        votes.add(masks(0, {1: np.array([[probability]])}, {1: 1.0}))
        planes.append(votes)
    assert assemble(planes, 0.5).item() == 1
    assert assemble(planes[1:], 0.5).item() == 0


def test_registration_helps_the_network_and_alone_makes_nothing():
    votes = PlaneVotes((1,), (1, 1, 3), 0)
    votes.add(masks(0, {1: np.array([[0.0, 0.4, 0.9]])}, {1: 1.0}))
    expected = np.array([[[1.0, 1.0, 0.0]]], np.float32)
    assert assemble([votes], 0.5).tolist() == [[[0, 0, 1]]]
    assert assemble([votes], 0.5, lambda value: expected).tolist() == [[[0, 1, 1]]]


def guide_of(expected: np.ndarray, prior: np.ndarray | None = None) -> Guide:
    """What an expert expects of structure 1, as a share; no other is known."""
    known = {1: Evidence(0.9, 0.5, 0.05)}
    return Guide(
        {1: np.round(expected * 255).astype(np.uint8)}, known, lambda value: prior, lambda v: prior is not None
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_shares_of_network_expert_and_registration_are_the_gates(axis):
    rng = np.random.default_rng(axis)
    network, expected, prior = rng.random((3, 4, 5, 6)).astype(np.float32)
    votes = PlaneVotes((1,), network.shape, axis)
    for t in range(network.shape[axis]):
        votes.add(masks(t, {1: np.take(network, t, axis)}, {1: 1.0}))
    for given in (prior, None):
        guide = guide_of(expected, given)
        share = guide.weights(1, confidence([votes], 0))
        total = share.network * network + share.expert * expected + share.prior * (0 if given is None else given)
        sure = np.abs(total - 0.5) > 0.01
        found = assemble([votes], 0.5, lambda value, given=given: given, guide=guide)
        assert np.array_equal((found == 1)[sure], (total > 0.5)[sure])


def test_the_expert_is_not_heard_where_the_network_was_not_asked():
    votes = PlaneVotes((1,), (4, 1, 1), 0)
    votes.add(masks(0, {1: np.ones((1, 1))}, {1: 1.0}))
    votes.add(masks(1, {1: np.full((1, 1), 0.9)}, {1: 1.0}))
    everywhere = np.ones((4, 1, 1), np.float32)
    found = assemble([votes], 0.5, lambda value: everywhere, guide=guide_of(everywhere, everywhere))
    assert found.ravel().tolist() == [1, 1, 0, 0]


def test_a_structure_without_an_expert_keeps_the_rule_of_network_and_registration():
    votes = PlaneVotes((4,), (1, 1, 3), 0)
    votes.add(masks(0, {4: np.array([[0.0, 0.4, 0.9]])}, {4: 1.0}))
    expected = np.array([[[1.0, 1.0, 0.0]]], np.float32)
    guide = guide_of(np.ones((1, 1, 3)))
    assert guide.weights(4, 0.8) is None and 0 < PRIOR_WEIGHT < 0.5
    for prior in (lambda value: expected, lambda value: None):
        assert np.array_equal(assemble([votes], 0.5, prior, guide=guide), assemble([votes], 0.5, prior))


def test_experts_do_not_bring_back_what_was_left_out():
    votes = PlaneVotes((1,), (1, 1, 1), 0)
    votes.add(masks(0, {1: np.ones((1, 1))}, {1: 1.0}))
    assert not assemble([votes], 0.5, leave_out=[1], guide=guide_of(np.ones((1, 1, 1)))).any()


def test_confidence_is_the_mean_iou_of_the_slices_that_show_the_structure():
    votes = PlaneVotes((1, 2), (3, 1, 1), 0)
    votes.add(masks(0, {1: np.ones((1, 1))}, {1: 0.9}))
    votes.add(masks(1, {1: np.ones((1, 1))}, {1: 0.3}))
    assert confidence([votes], 0) == pytest.approx(0.8) and confidence([votes], 1) == 0


def test_small_islands_go_and_structures_in_several_pieces_stay():
    labels = np.zeros((1, 20, 20), np.uint16)
    labels[0, 2:10, 2:10], labels[0, 15, 15] = 1, 1
    labels[0, 2:6, 14:18], labels[0, 12:16, 4:8] = 2, 2
    labels[0, 19, 19] = 2
    assert single_pieces(labels, [1, 2, 3]) == [1]
    drop_islands(labels, [1])
    assert labels[0, 15, 15] == 0 and labels[0, 19, 19] == 2 and (labels == 1).sum() == 64


def test_the_summary_measures_on_the_target_grid():
    labels = np.zeros((3, 4, 5), np.uint16)
    labels[1:3, 2, 3:5] = 7
    structures = (Structure(7, "cyst"), Structure(8, "gone"))
    grid = LabelMap(labels, Geometry(labels.shape, (2.0, 1.0, 0.5)), structures)
    votes = PlaneVotes((7, 8), labels.shape, 0)
    votes.add(masks(1, {7: np.ones((4, 5))}, {7: 0.9}))
    found, gone = summarise(grid, [votes], True)
    assert found.present and found.box == (1, 2, 3, 3, 3, 5) and found.voxels == 4
    assert found.volume_ml == pytest.approx(0.004) and found.score == pytest.approx(0.8)
    assert not gone.present and gone.box is None
    assert summarise(grid, [votes], False)[0].volume_ml is None
