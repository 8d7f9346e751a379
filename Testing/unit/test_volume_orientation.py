"""Canonical orientation is a permutation with flips, exactly undone, and never confuses left with right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import centre_of, phantom, rotation, signed_permutation
from rau.volume.orientation import acquisition_axis, canonical
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap

shapes = st.tuples(*[st.integers(1, 7)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)
origins = st.tuples(*[st.floats(-500, 500)] * 3)
directions = st.one_of(
    st.builds(signed_permutation, st.permutations((0, 1, 2)), st.tuples(*[st.sampled_from((-1, 1))] * 3)),
    st.builds(rotation, st.integers(0, 10_000)),
)
geometries = st.builds(Geometry, shapes, spacings, origins, directions)


@given(geometries, st.booleans())
def test_back_undoes_canonical_exactly(geometry, colour):
    shape = (*geometry.shape, 3) if colour else geometry.shape
    array = np.arange(np.prod(shape)).reshape(shape)
    turned, grid, orientation = canonical(array, geometry)
    assert turned.shape[:3] == grid.shape
    assert np.array_equal(orientation.back(turned), array)
    assert np.array_equal(orientation.forth(array), turned)


@given(geometries)
def test_every_voxel_keeps_its_place_in_the_world(geometry):
    index = np.argwhere(np.ones(geometry.shape))
    numbers = np.arange(len(index)).reshape(geometry.shape)
    turned, grid, _ = canonical(numbers, geometry)
    world = np.empty((len(index), 3))
    world[turned.ravel()] = grid.to_world(np.argwhere(np.ones(grid.shape)))
    assert np.abs(world - geometry.to_world(index)).max() < 1e-6


@given(geometries)
def test_canonical_axes_run_to_head_back_and_left(geometry):
    _, grid, _ = canonical(np.zeros(geometry.shape), geometry)
    along = np.asarray(grid.direction)[[2, 1, 0], [0, 1, 2]]
    assert np.all(along >= 0)
    assert np.trace(np.abs(np.asarray(grid.direction)[::-1])) >= 1.2  # a rotation's closest axes always add up to more
    again, same, orientation = canonical(np.zeros(grid.shape), grid)
    assert orientation.order == (0, 1, 2) and not any(orientation.flipped)


@given(geometries, st.data())
def test_slice_indices_find_the_way_to_the_source(geometry, data):
    array = np.random.default_rng(0).integers(0, 1000, geometry.shape)
    turned, grid, orientation = canonical(array, geometry)
    axis = data.draw(st.integers(0, 2))
    index = data.draw(st.integers(0, grid.shape[axis] - 1))
    plane = np.take(turned, index, axis)
    own = np.take(array, orientation.index_to_source(axis, index), orientation.axis_to_source(axis))
    assert np.array_equal(np.sort(plane.ravel()), np.sort(own.ravel()))


@given(directions)
def test_left_stays_left_in_canonical_arrays(direction):
    _, labels = phantom(Geometry((9, 8, 11), (2.0, 1.5, 1.0), (5.0, -40.0, 60.0), direction))
    turned, grid, _ = canonical(labels.array, labels.geometry)
    liver, kidney = np.argwhere(turned == 1).mean(0), np.argwhere(turned == 2).mean(0)
    if abs(centre_of(labels, 2)[0] - centre_of(labels, 1)[0]) > 4 and np.asarray(grid.direction)[0, 2] > 0.9:
        assert kidney[2] > liver[2]
    placed = LabelMap(turned, grid, labels.structures)
    assert np.allclose(centre_of(placed, 7), centre_of(labels, 7))


@given(directions, directions)
def test_labels_come_back_on_the_target_grid(direction, other):
    """Through any other orientation and back: the same voxels, on exactly the target's geometry."""
    _, labels = phantom(Geometry((6, 7, 8), (2.5, 1.0, 1.2), (1.0, 2.0, 3.0), direction))
    turned, grid, _ = canonical(labels.array, labels.geometry)
    back, said = labels_on_grid(LabelMap(turned, grid, labels.structures), labels.geometry)
    assert said == ""
    assert back.geometry is labels.geometry or back.geometry.matches(labels.geometry, 0.0)
    assert np.array_equal(back.array, labels.array)


def test_a_picture_comes_back_unchanged():
    array = np.arange(12).reshape(1, 3, 4)
    turned, grid, orientation = canonical(array, Geometry((1, 3, 4)))
    assert np.array_equal(turned, array) and grid.matches(Geometry((1, 3, 4)))
    assert orientation.order == (0, 1, 2)


def test_equal_fits_are_decided_the_same_way_despite_noise():
    tilt = np.deg2rad(45)
    direction = np.array([[0, np.sin(tilt), np.cos(tilt)], [0, np.cos(tilt), -np.sin(tilt)], [1, 0, 0]])
    orders = set()
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(scale=1e-9, size=(3, 3))
        orders.add(canonical(np.zeros((2, 3, 4)), Geometry((2, 3, 4), direction=direction + noise))[2].order)
    assert len(orders) == 1


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((20, 64, 64), (5.0, 1.0, 1.0), 0),
        ((64, 20, 64), (1.0, 4.0, 1.0), 1),
        ((64, 64, 20), (1.0, 1.0, 3.0), 2),
        ((64, 64, 64), (1.2, 1.0, 1.0), 0),
        ((64, 64, 64), (1.0, 1.2, 1.0), 0),
        ((64, 1, 64), (1.0, 1.0, 1.0), 1),
        ((1, 64, 64), (1.0, 9.0, 1.0), 0),
    ],
)
def test_acquisition_axis(shape, spacing, axis):
    assert acquisition_axis(Geometry(shape, spacing)) == axis
