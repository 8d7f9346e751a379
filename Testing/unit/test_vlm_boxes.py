"""Boxes: one unit inside, the backend's outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.vlm.boxes import WHOLE, Convention, areas, as_array, as_box, box_of_mask, centres, giou, iou, sizes

side = st.floats(0, 1)


@st.composite
def box_arrays(draw, most=5):
    rows = draw(st.lists(st.tuples(side, side, side, side), max_size=most))
    return as_array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows])


conventions = st.builds(Convention, st.sampled_from(["pixels", "grid"]), st.integers(1, 2000))


def test_boxes_that_share_a_third_have_an_iou_of_a_third():
    a, b = as_array([(0.0, 0.0, 0.2, 0.4)]), as_array([(0.1, 0.0, 0.3, 0.4), (0.5, 0.5, 0.6, 0.6)])
    assert iou(a, b).tolist() == [[pytest.approx(1 / 3), 0.0]]


def test_giou_of_disjoint_boxes_falls_with_their_distance():
    a = as_array([(0.0, 0.0, 0.1, 0.1)])
    near, far = giou(a, as_array([(0.2, 0.0, 0.3, 0.1), (0.8, 0.0, 0.9, 0.1)]))[0]
    assert near == pytest.approx(-1 / 3) and far == pytest.approx(-7 / 9)


@given(box_arrays(), box_arrays())
def test_giou_lies_between_minus_one_and_iou(a, b):
    plain, general = iou(a, b), giou(a, b)
    assert plain.shape == general.shape == (len(a), len(b))
    assert (general >= -1).all() and (general <= plain).all() and (plain >= 0).all() and (plain <= 1).all()
    assert np.allclose(iou(b, a).T, plain) and np.allclose(giou(b, a).T, general)


@given(box_arrays())
def test_a_box_is_itself(boxes):
    boxes = boxes[areas(boxes) > 0]
    assert (np.diag(iou(boxes, boxes)) == 1).all() and (np.diag(giou(boxes, boxes)) == 1).all()


def test_centre_and_size_are_x_first():
    boxes = as_array([(0.1, 0.2, 0.3, 0.8)])
    assert centres(boxes).tolist() == [pytest.approx([0.2, 0.5])] and sizes(boxes).tolist() == [
        pytest.approx([0.2, 0.6])
    ]


def test_no_boxes_are_an_empty_array_and_another_shape_is_refused():
    assert as_array([]).shape == (0, 4) and iou(as_array([]), as_array([WHOLE])).shape == (0, 1)
    with pytest.raises(ValueError, match="N, 4"):
        as_array(np.zeros((2, 3)))


def test_the_box_of_a_mask_is_tight_and_half_open():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:16] = True
    assert box_of_mask(mask) == pytest.approx((0.2, 0.2, 0.8, 0.5))
    assert box_of_mask(np.ones((7, 7), bool)) == WHOLE
    assert box_of_mask(np.zeros((7, 7), bool)) is None


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_a_mask_filled_from_a_box_has_that_box(rows, columns, data):
    r0, c0 = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    r1, c1 = data.draw(st.integers(r0 + 1, rows)), data.draw(st.integers(c0 + 1, columns))
    mask = np.zeros((rows, columns), bool)
    mask[r0:r1, c0:c1] = True
    assert box_of_mask(mask) == (c0 / columns, r0 / rows, c1 / columns, r1 / rows)


def test_conventions_write_pixels_or_a_grid():
    box = (0.1, 0.25, 0.5, 1.0)
    assert Convention("pixels", 560).write(box) == (56, 140, 280, 560)
    assert Convention("grid", 1000).write(box) == (100, 250, 500, 1000)
    assert Convention("grid", 1000).read((100, 250, 500, 1000)) == box


@given(conventions, st.tuples(*[st.floats(-3, 4)] * 4))
def test_what_is_written_is_in_the_picture_and_has_an_area(convention, box):
    x0, y0, x1, y1 = convention.write(box)
    assert 0 <= x0 < x1 <= convention.extent and 0 <= y0 < y1 <= convention.extent


@given(conventions, st.data())
def test_what_a_backend_wrote_is_written_alike_again(convention, data):
    low, high = st.integers(0, convention.extent - 1), convention.extent
    x0, y0 = data.draw(low), data.draw(low)
    written = (x0, y0, data.draw(st.integers(x0 + 1, high)), data.draw(st.integers(y0 + 1, high)))
    assert convention.write(convention.read(written)) == written


@given(conventions, st.tuples(side, side, side, side))
def test_a_box_is_read_back_to_half_a_unit_if_it_is_wide_enough(convention, corners):
    a, b, c, d = corners
    box = (min(a, c), min(b, d), max(a, c), max(b, d))
    if min(box[2] - box[0], box[3] - box[1]) > 1.5 / convention.extent:
        assert np.abs(np.subtract(convention.read(convention.write(box)), box)).max() <= 0.5 / convention.extent + 1e-9


@pytest.mark.parametrize("kind, extent", [("pixels", 0), ("inches", 10)])
def test_a_convention_that_does_not_exist_is_refused(kind, extent):
    with pytest.raises(ValueError, match="no such convention"):
        Convention(kind, extent)


def test_a_row_becomes_a_tuple_of_floats():
    box = as_box(as_array([WHOLE])[0])
    assert box == WHOLE and all(type(value) is float for value in box)
