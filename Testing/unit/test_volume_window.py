"""Intensities to 8 bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from builders import phantom
from rau.errors import InputError
from rau.volume.volume import Geometry, Volume
from rau.volume.window import SOFT_TISSUE, to_uint8, window_of

finite = st.floats(-1e6, 1e6, width=32)


def volume_of(array, modality="MR", **more):
    return Volume(array, Geometry(array.shape[:3]), modality, **more)


@given(arrays.arrays(np.float32, (2, 5, 6), elements=finite), st.sampled_from(["CT", "MR", ""]))
def test_window_is_monotone_and_repeatable(array, modality):
    volume = volume_of(array, modality)
    first, again = to_uint8(volume), to_uint8(volume)
    assert first.dtype == np.uint8 and first.shape == array.shape
    assert np.array_equal(first, again)
    order = np.argsort(array.ravel(), kind="stable")
    assert np.all(np.diff(first.ravel()[order].astype(int)) >= 0)


def test_ct_has_a_fixed_window_in_hu():
    array = np.array([[[-1000, -160, 40, 240, 3000]]], dtype=np.int16)
    assert to_uint8(volume_of(array, "CT")).ravel().tolist() == [0, 0, 128, 255, 255]
    assert window_of(volume_of(array, "CT")) == SOFT_TISSUE


def test_window_of_the_user_wins():
    array = np.array([[[0, 50, 100]]], dtype=np.int16)
    assert to_uint8(volume_of(array, "CT"), (0.0, 100.0)).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("window", [(5.0, 5.0), (9.0, 1.0), (float("nan"), 1.0)])
def test_an_empty_window_is_refused(window):
    with pytest.raises(InputError, match="window"):
        to_uint8(phantom()[0], window)


def test_air_around_the_body_does_not_change_the_contrast():
    rng = np.random.default_rng(0)
    body = rng.normal(500, 80, (12, 24, 24)).clip(300, 800).astype(np.float32)
    wide = rng.rayleigh(4, (12, 240, 240)).astype(np.float32)
    wide[:, 100:124, 100:124] = body
    alone, within = to_uint8(volume_of(body)), to_uint8(volume_of(wide))[:, 100:124, 100:124]
    assert within.mean() > 80
    assert within.astype(float).std() > 0.3 * alone.astype(float).std()
    assert np.corrcoef(alone.ravel(), within.ravel())[0, 1] > 0.99


def test_one_bright_voxel_does_not_darken_the_rest():
    array = np.random.default_rng(1).integers(100, 200, (8, 32, 32)).astype(np.int32)
    array[0, 0, 0] = 1_000_000
    assert to_uint8(volume_of(array)).mean() > 60


def test_pictures_keep_their_values():
    grey = np.random.default_rng(2).integers(40, 90, (1, 9, 9)).astype(np.uint8)
    assert np.array_equal(to_uint8(volume_of(grey, "", spacing_known=False)), grey)
    colour = np.random.default_rng(3).integers(0, 255, (1, 9, 9, 3)).astype(np.uint8)
    assert np.array_equal(to_uint8(volume_of(colour, "OT", spacing_known=False)), colour)


def test_a_mask_decides_which_voxels_count():
    array = np.zeros((1, 10, 10), dtype=np.float32)
    array[0, :5] = np.linspace(10, 20, 50).reshape(5, 10)
    array[0, 5:] = np.linspace(1000, 2000, 50).reshape(5, 10)
    mask = np.zeros(array.shape, dtype=bool)
    mask[0, :5] = True
    low, high = window_of(volume_of(array), mask)
    assert 10 <= low < 11 and 19 < high <= 20
