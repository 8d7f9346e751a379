"""What results are measured against: copying the mask, and registration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from rau.evaluation.baselines import BASELINES, BSPLINE, CONVEX_ADAM, COPYING, bspline, convex_adam, copied, stretched
from rau.evaluation.metrics import dice
from rau.references.reference import Reference
from rau.volume.volume import Geometry, LabelMap, Structure, Volume


def blob_pair(move: tuple[float, float, float], shape=(32, 40, 36)) -> tuple[Reference, Volume, np.ndarray]:
    """An ellipsoid in noise, and the same moved by some voxels with its truth."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape).reshape(3, -1).T - np.array(shape) / 2
    mask = ((grid / (7, 9, 8)) ** 2).sum(1).reshape(shape) < 1
    image = gaussian_filter(rng.normal(0, 1, shape), 2) * 60 + 100.0 * mask
    moved, truth = shift(image, move, order=1, mode="nearest"), shift(mask.astype(np.uint8), move, order=0)
    labels = LabelMap(mask.astype(np.uint8), Geometry(shape), (Structure(1, "blob"),))
    return Reference(Volume(image, Geometry(shape)), labels), Volume(moved, Geometry(shape)), truth > 0


def test_copying_onto_the_same_grid_changes_nothing():
    reference, target, _ = blob_pair((0, 0, 0))
    assert np.array_equal(copied(reference, target).array, reference.labels.array)


def test_copying_respects_flipped_axes():
    """A target stored the other way round gets the mask where the anatomy lies, not where the array does."""
    reference, target, _ = blob_pair((0, 0, 0))
    labels = np.zeros_like(reference.labels.array)
    labels[2:6, 3:9, 4:20] = 1
    reference = Reference(reference.image, LabelMap(labels, reference.labels.geometry, reference.structures))
    grid = target.geometry
    direction = grid.direction * np.array([-1, 1, -1])
    corner = grid.to_world(np.array([[grid.shape[0] - 1, 0, grid.shape[2] - 1]]))[0]
    turned = Volume(target.array[::-1, :, ::-1].copy(), Geometry(grid.shape, grid.spacing, tuple(corner), direction))
    assert np.array_equal(copied(reference, turned).array, labels[::-1, :, ::-1])


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_stretching_keeps_the_shape_asked_for_and_the_values(source, shape):
    array = np.arange(np.prod(source)).reshape(source)
    found = stretched(array, shape)
    assert found.shape == shape and np.isin(found, array).all()
    assert np.array_equal(stretched(array, source), array)


def test_stretching_by_whole_numbers_repeats():
    array = np.arange(8).reshape(2, 2, 2)
    assert np.array_equal(stretched(array, (4, 4, 4)), array.repeat(2, 0).repeat(2, 1).repeat(2, 2))


@pytest.mark.slow
def test_convex_adam_finds_a_moved_structure():
    pytest.importorskip("convexAdam")
    reference, target, truth = blob_pair((3, -4, 3))
    copy = dice(truth, copied(reference, target).array == 1)
    moved = dice(truth, convex_adam(reference, target).array == 1)
    assert copy < 0.7 < 0.9 < moved


@pytest.mark.slow
def test_convex_adam_takes_thin_volumes():
    pytest.importorskip("convexAdam")
    reference, target, truth = blob_pair((0, 3, 2), (10, 40, 36))
    found = convex_adam(reference, target)
    assert found.geometry.matches(target.geometry)
    assert dice(truth, found.array == 1) > dice(truth, copied(reference, target).array == 1)


def flat_pair(colour: bool) -> tuple[Reference, Volume, np.ndarray]:
    """One slice through the ellipsoids, 96 x 108 pixels, grey or in colours."""
    reference, target, truth = blob_pair((0, -4, 3))

    def flat(array: np.ndarray) -> np.ndarray:
        return array[16:17].repeat(3, 1).repeat(3, 2)

    def picture(array: np.ndarray) -> Volume:
        grey = np.clip(flat(array), 0, 255).astype(np.uint8)
        pixels = np.stack([grey, grey // 2, 255 - grey // 3], axis=3) if colour else grey
        return Volume(pixels, Geometry(grey.shape), "OT" if colour else "", spacing_known=False)

    labels = flat(reference.labels.array)
    mask = LabelMap(labels, Geometry(labels.shape), reference.labels.structures)
    return Reference(picture(reference.image.array), mask), picture(target.array), flat(truth)


@pytest.mark.slow
def test_the_b_spline_finds_a_moved_structure():
    reference, target, truth = blob_pair((3, -4, 3), (24, 36, 32))
    copy = dice(truth, copied(reference, target).array == 1)
    moved = dice(truth, bspline(reference, target).array == 1)
    assert copy < 0.75 and copy + 0.1 < moved > 0.85


@pytest.mark.parametrize("colour", [False, True])
def test_the_b_spline_takes_pictures_in_grey_and_colour(colour):
    reference, target, truth = flat_pair(colour)
    found = bspline(reference, target)
    assert found.geometry.matches(target.geometry)
    assert dice(truth, found.array == 1) > max(0.85, dice(truth, copied(reference, target).array == 1))


@pytest.mark.slow
@pytest.mark.parametrize("slices", [2, 5])
def test_the_b_spline_takes_thin_volumes(slices):
    reference, target, truth = blob_pair((0, 3, 2), (slices, 40, 36))
    found = bspline(reference, target)
    assert found.geometry.matches(target.geometry) and found.array.dtype == reference.labels.array.dtype
    assert dice(truth, found.array == 1) > 0.5


def test_the_b_spline_gives_the_same_voxels_each_time_and_leaves_the_threads_as_they_were():
    import SimpleITK as sitk

    reference, target, _ = flat_pair(False)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    first, *others = (bspline(reference, target).array for _ in range(3))
    assert all(np.array_equal(first, other) for other in others)
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == before


def test_baselines_tell_what_they_take_and_their_version():
    _, picture, _ = flat_pair(True)
    _, volume, _ = blob_pair((0, 0, 0))
    assert [one.name for one in BASELINES if one.takes(picture)] == ["copying", "bspline"]
    assert [one.name for one in BASELINES if one.takes(volume)] == ["copying", "bspline", "convex_adam"]
    assert COPYING.version == "copying 1" and BSPLINE.version.startswith("bspline 1, SimpleITK ")
    assert "convexAdam" in CONVEX_ADAM.version
