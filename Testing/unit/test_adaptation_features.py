"""What the expert sees of a pixel."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.adaptation.features import edges, filter_bank, gaussian, position_code  # noqa: E402

INSIDE = (..., slice(2, -2), slice(2, -2))


def surface(side: int, a: float, b: float, angle: float = 0.0):
    """(1, 1, side, side): (a x² + b y²) / 2 in axes turned by `angle`, x and y in pixels from the middle."""
    line = torch.arange(side) - (side - 1) / 2
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    turn = torch.tensor(angle)
    x, y = columns * turn.cos() + rows * turn.sin(), rows * turn.cos() - columns * turn.sin()
    return ((a * x**2 + b * y**2) / 2)[None, None]


@given(st.floats(0, 1), st.sampled_from([1, 3]))
@settings(max_examples=15, deadline=None)
def test_a_constant_image_has_no_edges_and_no_contrast(level, channels):
    bank = filter_bank(torch.full((1, channels, 32, 32), level))
    smooth = torch.isclose(bank, torch.tensor(level), atol=1e-4).flatten(2).all(2)[0]
    flat = (bank.abs() < 2e-3).flatten(2).all(2)[0]
    assert bool((smooth | flat).all())
    assert int(smooth.sum()) >= 5 * channels, "colours and means are the level itself"


@given(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_the_bank_has_one_shape_for_all_sides_and_is_finite(channels, side, count):
    images = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(side))
    bank = filter_bank(images)
    assert bank.shape == (count, 5 * channels + 15, side, side)
    assert bool(torch.isfinite(bank).all())
    assert torch.equal(bank[:, :channels], images)


@given(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(0, 3.14))
@settings(max_examples=25, deadline=None)
def test_curvatures_are_those_of_the_surface_whichever_way_it_lies(a, b, angle):
    _, high, low = edges(surface(12, a, b, angle))
    assert torch.allclose(high[INSIDE], torch.tensor(max(a, b)), atol=1e-4)
    assert torch.allclose(low[INSIDE], torch.tensor(min(a, b)), atol=1e-4)


@given(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
@settings(max_examples=25, deadline=None)
def test_the_gradient_of_a_ramp_is_its_slope(down, across):
    line = torch.arange(10.0)
    gradient = edges((down * line[:, None] + across * line)[None, None])[0]
    assert torch.allclose(gradient[INSIDE], torch.tensor((down**2 + across**2) ** 0.5), atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_the_gaussian_keeps_constants_and_spreads_a_point_by_its_deviation(sigma):
    assert torch.allclose(gaussian(torch.full((1, 2, 9, 7), 0.3), sigma), torch.tensor(0.3), atol=1e-5)
    point = torch.zeros(1, 1, 61, 61)
    point[0, 0, 30, 30] = 1
    spread = gaussian(point, sigma)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    variance = float((spread.sum(0) * (torch.arange(61) - 30.0) ** 2).sum())
    assert variance == pytest.approx(sigma**2, rel=0.1)


def test_features_move_with_the_picture():
    image = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(0))
    one, other = filter_bank(image), filter_bank(image.roll((8, -12), (2, 3)))
    middle = (..., slice(56, 104), slice(56, 104))
    assert torch.allclose(one.roll((8, -12), (2, 3))[middle], other[middle], atol=1e-4)


def test_the_position_code_tells_every_place_of_the_square_apart():
    line = torch.linspace(-1, 1, 9)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    code = position_code(places)
    assert code.shape == (9, 9, 9, 21) and torch.equal(code[..., :3], places)
    distances = torch.cdist(code.reshape(-1, 21), code.reshape(-1, 21)) + torch.eye(729) * 9
    assert float(distances.min()) > 0.2
