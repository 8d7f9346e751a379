"""Where a closer look looks: windows of a slice, crops of its pixels, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.look.crops import crop, crop_masks, paste  # noqa: E402
from rau.look.window import Window, around, bounding, longest, overlap  # noqa: E402
from rau.sam.pixels import Frame, to_square  # noqa: E402

SHAPES = st.tuples(st.integers(20, 90), st.integers(20, 90))
PARTS = st.floats(0.05, 0.95)


def block(shape, top, left, height, width):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_bounding_square_has_true_proportions_and_its_middle_on_the_mask():
    frame = Frame.of((40, 80), (2.0, 1.0))
    found = bounding(block((40, 80), 10, 40, 10, 8), frame)  # 20 mm by 8 mm in a square of 80 mm
    assert found.side == pytest.approx(0.25)
    assert (found.row, found.column) == pytest.approx((0.375, 0.55))
    wide = Frame.of((40, 80), (1.0, 1.0))  # fills half of its square, in the middle
    assert bounding(block((40, 80), 0, 0, 4, 4), wide).box == pytest.approx((0.25, 0.0, 0.3, 0.05))
    assert bounding(np.zeros((40, 80), bool), wide) is None


@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, row=PARTS, column=PARTS, side=st.floats(0.05, 1.0), stretch=st.floats(0.4, 2.5))
def test_a_window_is_moved_onto_the_slice_and_no_further(shape, row, column, side, stretch):
    frame = Frame.of(shape, (stretch, 1.0))
    moved = Window(row, column, side).within(frame)
    assert moved.side == side
    for centre, before, part in zip((moved.row, moved.column), (row, column), frame.fraction, strict=True):
        first, last = (1 - part) / 2, (1 + part) / 2
        if side <= part:
            assert first - 1e-9 <= centre - side / 2 and centre + side / 2 <= last + 1e-9
        else:
            assert centre == pytest.approx(0.5)
        if first <= before - side / 2 and before + side / 2 <= last:
            assert centre == pytest.approx(before)


def test_a_window_has_its_margin_its_least_side_and_at_most_the_slice():
    frame = Frame.of((64, 64), (1.0, 1.0))
    found = Window(0.5, 0.5, 0.1)
    assert around(found, 0.05, 2.0, 0.0, frame).side == pytest.approx(0.2)
    assert around(found, 0.15, 2.0, 0.0, frame).side == pytest.approx(0.3), "the reference's size counts too"
    assert around(found, 0.05, 2.0, 0.4, frame).side == pytest.approx(0.4)
    assert around(found, 0.9, 2.0, 0.4, frame) == Window(0.5, 0.5, 1.0)


def test_overlap_of_windows():
    one = Window(0.5, 0.5, 0.2)
    assert overlap(one, one) == pytest.approx(1.0)
    assert overlap(one, Window(0.5, 0.6, 0.2)) == pytest.approx(1 / 3)
    assert overlap(one, Window(0.9, 0.5, 0.2)) == 0.0


@settings(deadline=None, max_examples=25)
@given(shape=SHAPES, stretch=st.floats(0.5, 2.0))
def test_the_window_of_everything_is_the_whole_slice_as_the_network_sees_it(shape, stretch):
    rng = np.random.default_rng(shape[0])
    smooth = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) + rng.random(shape)
    pixels = (255 * smooth / smooth.max()).astype(np.uint8)[None]
    frame = Frame.of(shape, (stretch, 1.0))
    found = crop(pixels, frame, [Window(0.5, 0.5, 1.0)], 64)
    whole = to_square(pixels, frame, 64)
    both = (found > 0.02) & (whole > 0.02)  # borders differ by the rounding of the frame to pixels
    assert both.float().mean() > 0.9 * float((whole > 0.02).float().mean())
    assert (found - whole)[both].abs().median() < 0.03


def test_colours_stay_and_a_crop_of_many_pixels_is_averaged():
    pixels = np.zeros((1, 256, 256, 3), np.uint8)
    pixels[0, ::2, :, 0] = 255  # stripes finer than the square's pixels
    pixels[0, :, 128:, 2] = 255
    frame = Frame.of((256, 256), (1.0, 1.0))
    found = crop(pixels, frame, [Window(0.5, 0.75, 0.5)], 32)
    assert found.shape == (1, 3, 32, 32)
    assert found[0, 0].mean().item() == pytest.approx(0.5, abs=0.02) and found[0, 0].std() < 0.02
    assert found[0, 2].mean().item() == pytest.approx(1.0, abs=0.02)


def test_a_mask_of_one_pixel_never_vanishes_from_its_window():
    mask = block((300, 300), 150, 151, 1, 1)
    frame = Frame.of((300, 300), (1.0, 1.0))
    found = crop_masks(mask[None], frame, [Window(0.5, 0.5, 0.9)], 32)
    assert set(found.unique().tolist()) == {0.0, 1.0} and 1 <= found.sum() <= 4
    assert crop_masks(np.zeros((1, 300, 300), bool), frame, [Window(0.5, 0.5, 0.9)], 32).sum() == 0


@settings(deadline=None, max_examples=40)
@given(row=st.integers(5, 50), column=st.integers(5, 70), height=st.integers(6, 14), width=st.integers(6, 14))
def test_what_is_cropped_and_pasted_back_lies_where_it_was(row, column, height, width):
    shape = (70, 90)
    mask, frame = block(shape, row, column, min(height, 64 - row), min(width, 84 - column)), Frame.of(shape, (1.2, 0.9))
    window = around(bounding(mask, frame), 0.0, 2.0, 0.1, frame)
    fine = crop_masks(mask[None], frame, [window], 192)[0, 0]
    back = paste(np.zeros(shape), fine, window, frame, 0.1) > 0.5
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.95


def test_outside_the_window_nothing_changes_and_its_border_is_a_slope():
    shape, coarse = (64, 64), np.full((64, 64), 0.2, np.float32)
    frame, window = Frame.of(shape, (1.0, 1.0)), Window(0.5, 0.5, 0.5)
    found = paste(coarse, torch.ones(16, 16), window, frame, 0.1)
    assert np.all(found[:16] == coarse[:16]) and np.all(found[:, 48:] == coarse[:, 48:])
    assert np.allclose(found[20:44, 20:44], 1.0)
    slope = found[32, 16:22]
    assert np.all(np.diff(slope) >= 0) and 0.2 < slope[0] < 0.6 and slope[-1] == pytest.approx(1.0)
    assert np.all(coarse == np.float32(0.2)), "the coarse map itself is not altered"


def test_where_the_window_ends_with_the_slice_there_is_no_slope():
    frame, window = Frame.of((64, 64), (1.0, 1.0)), Window(0.25, 0.25, 0.5)
    found = paste(np.zeros((64, 64)), torch.ones(16, 16), window, frame, 0.2)
    assert np.allclose(found[:26, :26], 1.0) and found[10, 31] < 0.3 and found[31, 10] < 0.3
    assert longest(frame) == 64
