"""The discriminant of a pixel's filters: closed form, indifferent to the filters' units, honest about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.adaptation.discriminant import discriminant  # noqa: E402


def pixels(apart: float, seed: int = 0, count: int = 2000, share: float = 0.3):
    """(M, 4) features whose second channel tells the structure, `apart` deviations; (M,) inside."""
    generator = torch.Generator().manual_seed(seed)
    inside = (torch.rand(count, generator=generator) < share).float()
    mixing = torch.randn(4, 4, generator=generator)
    own = torch.randn(count, 4, generator=generator)
    own[:, 1] += apart * inside
    return own @ mixing, inside


def test_what_differs_is_found_however_the_filters_are_mixed():
    features, inside = pixels(6.0)
    told = discriminant(features, inside)
    found = told.odds(features.T[:, None])[0] > 0
    assert (found == (inside > 0.5)).float().mean() > 0.99
    assert told.reliability > 0.99


def test_reliability_falls_with_what_can_be_told_and_no_difference_tells_nothing():
    scores = [discriminant(*pixels(apart)).reliability for apart in (6.0, 3.0, 1.5, 0.0)]
    assert scores == sorted(scores, reverse=True) and scores[-1] == 0.0
    assert discriminant(*pixels(0.0)).odds(pixels(0.0)[0].T[:, None]).abs().mean() < 0.3


@given(st.integers(0, 50), st.floats(0.01, 100.0), st.floats(-5.0, 5.0))
def test_units_and_offsets_of_a_filter_change_nothing(seed, scale, offset):
    features, inside = pixels(3.0, seed, 500)
    other = features.double().clone()
    other[:, 2] = (other[:, 2] + offset) * scale
    one, two = (discriminant(x, inside) for x in (features, other))
    first, second = (t.odds(x.float().T[:, None]) for t, x in ((one, features), (two, other)))
    assert torch.allclose(first, second, rtol=1e-2, atol=1e-2)


def test_structure_and_rest_exchanged_give_the_negative():
    features, inside = pixels(3.0)
    one, other = discriminant(features, inside), discriminant(features, 1 - inside)
    there = features.T[:, None]
    assert torch.allclose(one.odds(there), -other.odds(there), atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_tells_nothing(share):
    assert discriminant(torch.randn(50, 4), torch.full((50,), share)) is None
