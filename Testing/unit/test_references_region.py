"""The region that the segmenter looks at: around what registration expects, never without some of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.references.region import LEAST, region_of  # noqa: E402
from rau.sam.pixels import Frame, from_square, masks_to_square, to_square  # noqa: E402
from rau.volume.planes import Planes  # noqa: E402

SHAPE = (12, 160, 200)


def planes(axis: int = 0, spacing=(3.0, 1.0, 1.0)) -> Planes:
    return Planes(np.zeros(SHAPE, np.uint8), axis, spacing)


@given(st.integers(0, 110), st.integers(0, 150), st.integers(2, 40), st.integers(2, 40))
def test_the_region_holds_what_is_expected_and_is_worth_while_or_there_is_none(row, column, height, width):
    labels = np.zeros(SHAPE, np.uint16)
    labels[4:7, row : row + height, column : column + width] = 3
    region = region_of([labels], planes())
    assert region is not None
    first, rows, start, columns = region
    assert first <= row and rows >= min(160, row + height) and start <= column and columns >= min(200, column + width)
    assert 0 <= first < rows <= 160 and 0 <= start < columns <= 200
    assert max(rows - first, columns - start) <= 0.7 * 200


def test_a_small_structure_is_seen_with_its_surroundings():
    labels = np.zeros(SHAPE, np.uint16)
    labels[5, 80:84, 100:104] = 1
    first, rows, start, columns = region_of([labels], planes())
    assert rows - first >= LEAST and columns - start >= LEAST


def test_where_structures_fill_the_slice_or_nothing_is_expected_there_is_no_region():
    labels = np.zeros(SHAPE, np.uint16)
    assert region_of([labels], planes()) is None
    labels[3:8, 10:150, 10:190] = 1
    assert region_of([labels], planes()) is None


def test_the_region_of_another_plane_is_in_its_own_rows_and_columns():
    labels = np.zeros((40, 160, 200), np.uint16)
    labels[20:26, 70:90, 100:120] = 1
    images = Planes(np.zeros((40, 160, 200), np.uint8), 1, (1.0, 1.0, 1.0))
    first, rows, start, columns = region_of([labels], images)
    assert (first, rows) == (0, 40) and start <= 100 and columns >= 120


@given(st.integers(0, 30), st.integers(0, 40), st.integers(20, 60), st.integers(20, 60))
def test_masks_come_back_to_their_place_through_a_region(row, column, height, width):
    frame = Frame.of((90, 100), (1.0, 1.2)).within((row, row + height, column, column + width))
    mask = np.zeros((1, 90, 100), bool)
    mask[0, row + 5 : row + height - 5, column + 5 : column + width - 5] = True
    back = from_square(masks_to_square(mask, frame, 192)[:, 0], frame)
    assert back.shape == mask.shape
    assert 2 * (mask & (back > 0.5)).sum() / (mask.sum() + (back > 0.5).sum()) > 0.9
    outside = back.copy()
    outside[(slice(None), *frame.looked_at)] = 0
    assert not outside.any()


def test_the_whole_slice_as_a_region_is_the_whole_slice():
    whole = Frame.of((90, 100), (1.0, 1.2))
    same = whole.within((0, 90, 0, 100))
    image = np.random.default_rng(0).integers(0, 256, (1, 90, 100)).astype(np.uint8)
    assert torch.equal(to_square(image, whole, 64), to_square(image, same, 64))
    maps = torch.rand(2, 64, 64)
    assert np.array_equal(from_square(maps, whole), from_square(maps, same))


def test_structures_are_seen_larger_through_a_region():
    images = planes()
    closer = dataclasses.replace(images, region=(60, 110, 80, 130))
    mask = np.zeros((1, *images.frame.shape), bool)
    mask[0, 80:90, 100:110] = True
    far, near = (masks_to_square(mask, one.sight, 192).sum() for one in (images, closer))
    assert near > 10 * far
