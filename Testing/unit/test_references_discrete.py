"""Large displacements, found by trying them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rau.references.discrete import Search, displacements, led, moved, self_similarity

FLAT, DEEP = Search(radius=2, brightness=0.5), Search(cell=6, reach=4)


def texture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Blobs of some voxels, 0 to 255."""
    found = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3.0)
    return ((found - found.min()) / np.ptp(found) * 255).astype(np.float32)


def inner(array: np.ndarray, margin: int) -> np.ndarray:
    return array[tuple(slice(margin, -margin) for _ in range(array.ndim - 1))]


@pytest.mark.parametrize(
    ("shape", "step", "how"),
    [((96, 112), (11, -14), FLAT), ((48, 54, 60), (8, -6, 10), DEEP), ((50, 61), (3, 5), FLAT)],
)
def test_what_was_moved_is_found_where_it_went(shape, step, how):
    image = texture(shape)
    found = displacements(image, np.roll(image, step, tuple(range(len(shape)))), how)
    assert found.shape == (*shape, len(shape)) and found.dtype == np.float32
    assert np.abs(np.median(inner(found, 16), axis=tuple(range(len(shape)))) - step).max() < 0.5


@pytest.mark.parametrize(("shape", "how"), [((96, 112), FLAT), ((8, 30, 34), DEEP), ((7, 9), FLAT)])
def test_an_image_stays_on_itself(shape, how):
    image = texture(shape)
    assert np.abs(displacements(image, image, how)).max() < 0.3


def test_a_negative_is_found_as_well_as_the_picture():
    image = texture((96, 96))
    there = np.roll(image, (9, -7), (0, 1))
    one, two = displacements(image, there, FLAT), displacements(image, 255 - there, FLAT)
    assert np.abs(np.median(inner(two, 16), axis=(0, 1)) - (9, -7)).max() < 0.5
    assert np.abs(inner(one - two, 16)).mean() < 0.5


def test_nothing_to_see_moves_nothing():
    assert np.abs(displacements(np.zeros((40, 50)), np.zeros((40, 50)), FLAT)).max() < 1e-3


def test_the_same_images_give_the_same_on_any_number_of_threads():
    one, two = texture((60, 70), 1), texture((60, 70), 2)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found.append(displacements(one, two, FLAT))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_inference_mode_of_the_caller_makes_no_difference():
    one, two = texture((40, 44), 1), texture((40, 44), 2)
    plain = displacements(one, two, FLAT)
    with torch.inference_mode():
        assert np.array_equal(displacements(one, two, FLAT), plain)


def test_self_similarity_is_that_of_convex_adam():
    theirs = pytest.importorskip("convexAdam.convex_adam_utils").MINDSSC
    image = torch.from_numpy(texture((14, 16, 18)))[None, None]
    one, two = self_similarity(image, 1), theirs(image, 1, 2, device="cpu")
    assert torch.allclose(one.sort(1).values, two.sort(1).values, atol=1e-3)


@given(seed=st.integers(0, 99), gain=st.floats(0.3, 3), offset=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_self_similarity_knows_no_contrast(seed, gain, offset):
    image = torch.from_numpy(texture((20, 24), seed))[None, None]
    assert torch.allclose(self_similarity(image, 2), self_similarity(gain * image + offset, 2), atol=2e-2)


@given(step=st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
@settings(deadline=None)
def test_moving_by_whole_voxels_is_what_sampling_there_gives(step):
    image = torch.from_numpy(texture((12, 15)))[None, None]
    steps = torch.tensor(step, dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 12, 15)
    assert torch.allclose(moved(image, step), led(image, steps), atol=1e-2)
