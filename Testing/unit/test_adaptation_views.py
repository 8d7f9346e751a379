"""New subjects of a reference: everything of a pixel moves alike."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.adaptation.guide import centres  # noqa: E402
from rau.adaptation.views import Sheets, doubt_of, doubted, relit, sampling_grid, smooth_field, views_of  # noqa: E402


def generator(seed: int):
    return torch.Generator().manual_seed(seed)


def numbered(count: int, side: int) -> Sheets:
    """Slices in which every pixel has a label of its own; slice k lies at k / 10 across."""
    pixels = count * side * side
    labels = torch.arange(1, pixels + 1).view(count, side, side)
    across = torch.arange(count).view(-1, 1, 1, 1).expand(-1, side, side, 1) / 10
    places = torch.cat([across, centres(side).expand(count, -1, -1, -1)], 3)
    return Sheets(torch.rand(count, 1, side, side, generator=generator(0)), labels, places)


@given(st.integers(0, 10**6), st.integers(12, 48), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_the_place_of_a_pixel_says_where_its_label_came_from(seed, side, count):
    sheets = numbered(count, side)
    views = views_of(sheets, 4, generator(seed))
    shown = views.labels > 0
    origin = sheets.places.reshape(-1, 3)[views.labels[shown] - 1]
    assert float((views.places[shown] - origin).abs().max()) <= 1.001 / side, "half a pixel of the square"
    assert float(shown.float().mean()) > 0.4


def test_the_picture_deforms_like_the_labels():
    sheets = numbered(1, 64)
    square = ((sheets.places[..., 1:].abs() - 0.5).abs() < 0.25).all(3)
    sheets = Sheets(square[:, None].float(), square.long(), sheets.places)
    views = views_of(sheets, 6, generator(3))
    bright = views.images[:, 0] > 0.5
    agreement = (bright == (views.labels > 0)).float().mean()
    assert float(agreement) > 0.97
    assert not torch.equal(views.labels[0], views.labels[1]), "every view is another subject"


def test_slices_take_turns_and_keep_their_shape():
    views = views_of(numbered(3, 16), 7, generator(1))
    assert views.images.shape == (7, 1, 16, 16) and views.labels.shape == (7, 16, 16)
    assert views.labels.dtype == torch.long and views.places.shape == (7, 16, 16, 3)
    assert [round(float(p[..., 0].mean()) * 10) for p in views.places] == [0, 1, 2, 0, 1, 2, 0]


def test_the_same_seed_gives_the_same_views_and_leaves_torchs_own_state_alone():
    before = torch.random.get_rng_state()
    one, two, other = (views_of(numbered(2, 24), 3, generator(s)) for s in (5, 5, 6))
    assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
    assert not torch.equal(one.labels, other.labels)
    assert torch.equal(before, torch.random.get_rng_state())


@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_new_light_keeps_the_range_and_the_order_of_bright_and_dark(seed, channels):
    images = torch.zeros(2, channels, 32, 32)
    images[..., 16:] = 0.8
    found = relit(images, generator(seed))
    assert found.shape == images.shape and 0 <= float(found.min()) <= float(found.max()) <= 1
    assert bool((found[..., 16:].mean((2, 3)) > found[..., :16].mean((2, 3)) + 0.2).all())


def test_grids_are_deformations_about_the_identity():
    found = torch.stack([sampling_grid(generator(s), 4, 32) for s in range(20)]).flatten(0, 1)
    straight = centres(32)[..., [1, 0]]
    assert torch.allclose(found.mean(0), straight, atol=0.12)
    assert 0.02 < float((found - straight).std()) < 0.3


@given(st.floats(0, 0.3), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_places_wander_in_proportion_to_the_doubt(doubt, seed):
    places = numbered(4, 32).places
    error, unit = (doubted(places, d, generator(seed)) - places for d in (doubt, 1.0))
    assert torch.allclose(error, doubt * unit, atol=1e-5)
    assert 0.5 < float(unit.std()) < 1.5, "about `doubt` half squares"


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_worse_the_registration_the_greater_the_doubt(one, other):
    worse, better = sorted((one, other))
    assert doubt_of(worse) >= doubt_of(better) > 0
    assert doubt_of(-1.0) > 2 * doubt_of(1.0)


def test_an_unknown_correlation_is_doubted_most():
    assert doubt_of(float("nan")) >= doubt_of(-1.0)
    assert np.isfinite(doubt_of(float("inf")))


@settings(max_examples=10, deadline=None)
@given(st.integers(4, 9), st.integers(16, 70), st.integers(0, 5))
def test_a_smooth_field_is_the_bicubic_interpolation_of_its_noise(cells, side, seed):
    noise = torch.randn(2, 3, cells, cells, generator=generator(seed))
    whole = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic", align_corners=True)
    assert torch.allclose(smooth_field(generator(seed), 2, 3, cells, side), whole, atol=1e-5)
