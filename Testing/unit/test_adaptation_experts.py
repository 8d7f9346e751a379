"""Several experts of one reference: who they are, and that they count as far as they are right."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_adaptation_expert import QUICK, SIDE, dice, disc, picture, places, sheets  # noqa: E402

from rau.adaptation.expert import train_expert  # noqa: E402
from rau.adaptation.experts import CHECKS, Experts, agreement, richest, train_experts, tried  # noqa: E402
from rau.adaptation.pixel_encoder import FEATURES, PixelEncoder  # noqa: E402

MASK = disc(30, 30)


@pytest.fixture(scope="module")
def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(widths=(8, 8, 8, 16, 16), size=64).eval().requires_grad_(False)


def test_without_an_encoder_the_experts_are_the_perceptron_on_filters():
    one = sheets(picture(MASK), MASK)
    experts, alone = train_experts(one, 1, QUICK), train_expert(one, 1, QUICK)
    assert len(experts.perceptrons) == 1 and not experts.laid and not experts.plain and np.all(experts.shares == 1)
    found = experts.predict(one.images, places(), places())
    assert torch.allclose(found, alone.predict(one.images, places()))


@pytest.mark.parametrize(("registered", "count"), [(False, 3), (True, 4)])
def test_with_an_encoder_there_are_closed_forms_too_one_for_each_kind_of_place(encoder, registered, count):
    one = sheets(picture(MASK), MASK)
    experts = train_experts(one, 1, QUICK, encoder, registered)
    assert len(experts.perceptrons) == 2 and len(experts.shares) == count and np.allclose(experts.shares.sum(0), 1)
    each = experts.each(one.images, places(), places())
    assert each.shape == (count, 1, 1, SIDE, SIDE)
    assert dice(experts.predict(one.images, places(), places())[0, 0], MASK) > 0.8
    assert experts.trust[0] > 0.6


def test_the_perceptron_on_filters_is_what_it_is_without_an_encoder(encoder):
    one = sheets(picture(MASK), MASK)
    beside, alone = train_experts(one, 1, QUICK, encoder).perceptrons, train_expert(one, 1, QUICK)
    assert torch.allclose(beside[0].predict(one.images, places()), alone.predict(one.images, places()), atol=1e-5)
    assert len(beside[1].mean) == len(alone.mean) + FEATURES
    again = train_experts(one, 1, QUICK, encoder).perceptrons
    assert all(torch.equal(a, b) for a, b in zip(beside[1].network.parameters(), again[1].network.parameters()))


def test_places_by_registration_and_without_go_to_those_that_read_them(encoder):
    one = sheets(picture(MASK), MASK)
    experts = train_experts(one, 1, QUICK, encoder, True)
    before = experts.each(one.images, places(), places())
    away = experts.each(one.images, places(), places() + 0.4)
    same = [torch.equal(a, b) for a, b in zip(before, away, strict=True)]
    assert same == [True, True, True, False]


class Certain:
    """A perceptron that says this mask with certainty, whatever it is shown."""

    def __init__(self, mask) -> None:
        self.mask = mask

    def told(self, features, side):
        return self.mask.float().expand(len(features), 1, side, side)


def test_who_is_wrong_on_views_counts_next_to_nothing():
    everything, nothing = torch.ones(SIDE, SIDE, dtype=torch.bool), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    large = disc(32, 32, 28)
    members, alike = (Certain(everything), Certain(nothing)), np.full((2, 1), 0.5)
    experts = Experts(members, (), (), 1, None, alike, np.full(1, np.nan))
    found = tried(experts, sheets(picture(large), large), QUICK)
    assert found.shares[0, 0] > 0.99 and found.trust[0] > 0.6


def test_experts_are_tried_on_the_slices_that_show_most_of_all_structures():
    labels = torch.zeros(6, 8, 8, dtype=torch.long)
    labels[1, :2] = 1
    labels[2, :6] = 1
    labels[3, :3], labels[3, 3:5] = 1, 2
    labels[4, :4] = 2
    assert sorted(richest(labels, 2).tolist()) == [2, 4] and len(richest(labels, 2)) == CHECKS
    assert richest(labels[:1], 2).tolist() == [0], "of a lone slice, that one, whatever it shows"


def test_a_structure_that_few_slices_of_a_volume_show_has_a_trust_of_its_own():
    masks = [disc(30, 30) if k == 3 else torch.zeros(SIDE, SIDE, dtype=torch.bool) for k in range(8)]
    stack = [sheets(picture(mask), mask) for mask in masks]
    several = type(stack[0])(
        *(torch.cat([getattr(one, name) for one in stack]) for name in ("images", "labels", "places"))
    )
    assert np.isfinite(train_experts(several, 1, QUICK).trust[0])


@given(st.integers(0, 5), st.integers(0, 5))
def test_agreement_is_dice_and_nothing_where_no_pixel_shows_the_structure(shift, seed):
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :4] = 1
    found = torch.zeros(1, 2, 8, 8)
    found[0, 0, shift : shift + 4] = 1
    scores = agreement(found, labels)
    rows = min(8, shift + 4) - shift
    assert scores[0] == pytest.approx(2 * max(0, 4 - shift) / (rows + 4)) and np.isnan(scores[1])
