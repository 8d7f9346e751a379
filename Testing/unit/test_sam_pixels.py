"""Slices into the network's square and back."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.sam.pixels import Frame, from_square, masks_to_square, to_square  # noqa: E402

SIZES = st.integers(8, 90)


@given(SIZES, SIZES, st.floats(0.4, 2.5), st.floats(0.4, 2.5))
@settings(max_examples=40, deadline=None)
def test_a_mask_survives_the_way_there_and_back(rows, columns, row_mm, column_mm):
    frame = Frame.of((rows, columns), (row_mm, column_mm))
    mask = np.zeros((1, rows, columns), bool)
    mask[0, rows // 4 : rows // 4 + max(3, rows // 2), columns // 4 : columns // 4 + max(3, columns // 2)] = True
    square = masks_to_square(mask, frame, 256)
    back = from_square(square[:, 0], frame) > 0.5
    assert back.shape == mask.shape
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.85


def test_pixels_keep_their_true_proportions():
    frame = Frame.of((50, 100), (2.0, 1.0))
    assert frame.pixels(192) == (0, 0, 192, 192)
    top, left, height, width = Frame.of((50, 100), (1.0, 1.0)).pixels(192)
    assert (top, left, height, width) == (48, 0, 96, 192)


def test_padding_is_black_and_the_picture_is_centred():
    square = to_square(np.full((1, 40, 80), 255, np.uint8), Frame.of((40, 80), (1.0, 1.0)), 64)
    assert square[0, 0, :16].max() == 0 and square[0, 0, 48:].max() == 0
    assert square[0, 0, 16:48].min() == pytest.approx(1)


def test_a_structure_of_one_voxel_does_not_vanish():
    mask = np.zeros((1, 400, 400), bool)
    mask[0, 123, 321] = True
    assert masks_to_square(mask, Frame.of((400, 400), (1.0, 1.0)), 64).sum() >= 1


def test_colour_slices_keep_three_channels():
    colour = np.zeros((2, 30, 20, 3), np.uint8)
    colour[..., 1] = 255
    square = to_square(colour, Frame.of((30, 20), (1.0, 1.0)), 64)
    assert square.shape == (2, 3, 64, 64)
    assert square[0, 1].max() == pytest.approx(1) and square[0, 0].max() == 0
