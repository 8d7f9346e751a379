"""One-shot adaptation without training: prototype, likeness, place, bias, as papers.md B3 and B9 have them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.adaptation.prototype import (  # noqa: E402
    ALPHA,
    LOCATION,
    adapted,
    attended,
    biased,
    boxes_of,
    gaussian_place,
    points,
    prototype,
    similarity,
)

SIDE = 8


def scene(seed=0, rows=1):
    """Features in which a block looks unlike the rest; the block as masks on a grid twice as fine."""
    generator = torch.Generator().manual_seed(seed)
    features = 0.1 * torch.randn(rows, 6, SIDE, SIDE, generator=generator)
    features[:, 0] += 1.0
    masks = torch.zeros(rows, 1, 2 * SIDE, 2 * SIDE)
    for k in range(rows):
        features[k, :, 2:4, 1 + k : 4 + k] = 0.1 * torch.randn(6, 2, 3, generator=generator)
        features[k, 1, 2:4, 1 + k : 4 + k] += 1.0
        masks[k, :, 4:8, 2 + 2 * k : 8 + 2 * k] = 1
    return features, masks


def test_the_prototype_is_the_mean_under_the_mask_and_of_unit_length():
    features, masks = scene()
    found = prototype(features, masks)
    by_hand = features[0, :, 2:4, 1:4].flatten(1).mean(1)
    assert torch.allclose(found, by_hand / by_hand.norm(), atol=1e-4)
    assert found.norm().item() == pytest.approx(1.0)


def test_several_references_are_averaged_and_empty_ones_left_out():
    features, masks = scene(rows=2)
    both = prototype(features, masks)
    singles = [(features[k] * (features[k] == features[k]))[:, 2:4, 1 + k : 4 + k].flatten(1).mean(1) for k in (0, 1)]
    mean = (singles[0] + singles[1]) / 2
    assert torch.allclose(both, mean / mean.norm(), atol=1e-4)
    masks[1] = 0
    assert torch.allclose(prototype(features, masks), prototype(features[:1], masks[:1]))
    assert prototype(features, torch.zeros_like(masks)) is None


def test_a_mask_below_a_position_counts_only_where_all_are_so_small():
    features, masks = scene(rows=2)
    speck = torch.zeros_like(masks)
    speck[:, :, 0, 0] = 1  # a quarter of a position
    small = prototype(features[:1], speck[:1])
    assert torch.allclose(small, torch.nn.functional.normalize(features[0, :, 0, 0], dim=0), atol=1e-4)
    mixed = torch.cat([masks[:1], speck[1:]])
    assert torch.allclose(prototype(features, mixed), prototype(features[:1], masks[:1]))


def test_likeness_is_highest_where_the_structure_is_and_half_on_the_whole():
    features, masks = scene(seed=1)
    other, there = scene(seed=2)
    found = similarity(prototype(features, masks)[None], other)
    assert found.shape == (1, 1, SIDE, SIDE) and found.min() > 0 and found.max() < 1
    inside = there[:, :, ::2, ::2] > 0
    assert found[inside].min() > found[~inside].max()
    assert torch.logit(found).mean().item() == pytest.approx(0, abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(row=st.integers(0, 40), column=st.integers(0, 40), height=st.integers(2, 20), width=st.integers(2, 20))
def test_the_gaussian_is_one_at_the_middle_of_its_mask_and_falls_with_the_distance(row, column, height, width):
    mask = np.zeros((64, 64), bool)
    mask[row : row + height, column : column + width] = True
    place = gaussian_place(mask, 64)
    top = np.unravel_index(place.argmax(), place.shape)
    middle = (row + height / 2 - 0.5, column + width / 2 - 0.5)
    assert np.abs(np.subtract(top, middle)).max() <= 0.5
    assert 0.9 < place.max() <= 1
    line = place[top[0], top[1] :]
    assert np.all(np.diff(line) <= 0)


def test_every_large_piece_has_a_gaussian_and_specks_have_none():
    mask = np.zeros((48, 48), bool)
    mask[4:12, 4:12] = mask[34:44, 34:44] = True
    mask[4, 44] = True
    place = gaussian_place(mask, 48)
    assert place[8, 8] > 0.9 and place[39, 39] > 0.9
    assert place[4, 44] < 0.01 and place[24, 24] < 0.4
    assert not gaussian_place(np.zeros((48, 48), bool), 12).any()


def test_features_are_raised_by_likeness_and_place_as_released():
    features, _ = scene()
    likeness, place = torch.rand(1, 1, SIDE, SIDE), torch.rand(1, 1, SIDE, SIDE)
    assert torch.allclose(adapted(features, likeness, None), features * (1 + ALPHA * likeness))
    both = adapted(features, likeness, place)
    assert torch.allclose(both, features * (1 + ALPHA * likeness) * (1 + LOCATION * place), atol=1e-6)


def test_the_first_version_adds_what_the_mask_of_the_reference_holds_and_nothing_without_one():
    features, masks = scene(seed=1)
    target, _ = scene(seed=2)
    found = attended(target, features, masks, None) - target
    mean = features[0, :, 2:4, 1:4].flatten(1).mean(1)
    assert torch.allclose(found.flatten(2).mean(2)[0], mean, atol=0.05)
    assert torch.equal(attended(target, features, torch.zeros_like(masks), None), target)
    halved = attended(target, features, masks, torch.full((1, 1, SIDE, SIDE), 0.5)) - target
    assert torch.allclose(halved, found / 2, atol=1e-5)


def test_the_bias_is_half_the_mean_size_of_the_rows_own_logits_where_the_structure_is_expected():
    logits = torch.stack([torch.full((1, 4, 4), -2.0), torch.full((1, 4, 4), 6.0)])
    place = torch.zeros(2, 1, 4, 4)
    place[:, :, 1, 2] = 1
    change = biased(logits, place) - logits
    assert change[0, 0, 1, 2].item() == pytest.approx(1.0) and change[1, 0, 1, 2].item() == pytest.approx(3.0)
    assert change.abs().sum().item() == pytest.approx(4.0)


def test_points_lie_on_the_most_and_the_least_like_position():
    likeness = torch.full((1, 1, SIDE, SIDE), 0.5)
    likeness[0, 0, 2, 5], likeness[0, 0, 7, 0] = 0.9, 0.1
    where, labels = points(likeness, 16 * SIDE)
    assert where.tolist() == [[[5.5 * 16, 2.5 * 16], [0.5 * 16, 7.5 * 16]]] and labels.tolist() == [[1, 0]]


def test_boxes_bound_their_masks_and_empty_ones_have_none():
    masks = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    masks[0, 0, 3:7, 2:12] = True
    found = boxes_of(masks, 64)
    assert found[0].tolist() == [8.0, 12.0, 48.0, 28.0] and bool(found[1].isnan().all())
