"""Mask prompts to learn from: roughly right candidates."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.training import prompts as module  # noqa: E402
from rau.training.prompts import prompts_for  # noqa: E402
from rau.training.synthetic import Dice  # noqa: E402

SIDE = 64


def square(count: int, top: int, left: int, side: int = 20):
    """(count, 1, S, S) masks."""
    masks = torch.zeros(count, 1, SIDE, SIDE)
    masks[:, :, top : top + side, left : left + side] = 1
    return masks


def overlap(soft, masks):
    """(K,) Dice of soft candidates and masks."""
    return 2 * (soft * masks).flatten(1).sum(1) / (soft + masks).flatten(1).sum(1)


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_candidates_are_probabilities_of_the_masks_shape_and_repeat_with_their_seed(seed, count):
    image = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    one, two = (prompts_for(square(count, 20, 20), square(count, 24, 18), image, Dice(seed)) for _ in range(2))
    assert one.shape == (count, 1, SIDE, SIDE) and bool(torch.isfinite(one).all())
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert torch.equal(one, two)


def test_candidates_are_roughly_where_the_structure_is():
    truth, reference = square(60, 8, 8), square(60, 36, 36)
    image = 0.2 + 0.6 * truth
    found = prompts_for(truth, reference, image, Dice(0))
    right, copied = overlap(found, truth), overlap(found, reference)
    assert float((right > 0.5).float().mean()) > 0.6, "most come from the truth"
    assert 0.05 < float((copied > 0.4).float().mean()) < 0.4, "some are the reference's, where it lies"
    assert float(right.max()) < 0.999, "none is the truth itself"


def test_absent_structures_have_the_references_candidate(monkeypatch):
    monkeypatch.setattr(module, "TISSUE", 0.0)
    truth, reference = square(20, 8, 8), square(20, 36, 36)
    truth[::2] = 0
    found = prompts_for(truth, reference, torch.zeros_like(truth), Dice(1))
    assert float(overlap(found[::2], reference[::2]).min()) > 0.3


def test_what_shows_nothing_anywhere_has_an_empty_candidate():
    nothing = torch.zeros(8, 1, SIDE, SIDE)
    assert not bool(prompts_for(nothing, nothing, torch.rand(8, 1, SIDE, SIDE), Dice(2)).any())


def test_tissue_leaves_out_what_is_not_as_bright(monkeypatch):
    monkeypatch.setattr(module, "TISSUE", 1.0)
    monkeypatch.setattr(module, "COPIED", 0.0)
    truth = square(10, 20, 20)
    image = 0.7 * truth
    found = prompts_for(truth, truth, image, Dice(3))
    assert float(found[truth == 0].max()) < 0.01 < 0.3 < float(found[truth == 1].mean())
