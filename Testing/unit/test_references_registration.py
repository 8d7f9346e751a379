"""A reference laid onto the target by registration."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from rau.references import deformation, registration
from rau.references.registration import can_register, correlation, register
from rau.training.patient import patient_pair
from rau.volume.window import to_uint8


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / max(1.0, float(one.sum() + other.sum()))


@pytest.fixture(scope="module")
def pair():
    reference, (target, truth) = patient_pair(7, (20, 48, 48))
    return to_uint8(reference.image), reference.labels.array, to_uint8(target), truth.array, target.geometry.spacing


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([dice(labels == v, truth == v) for v in np.unique(truth) if v]))


def test_the_registered_labels_fit_the_target_better_than_copied_ones(pair):
    image, labels, target, truth, spacing = pair
    found = register(target, spacing, image, labels, spacing)
    assert found.useful and found.after > 0.8 > found.before
    assert mean_dice(found.labels, truth) > mean_dice(labels, truth) + 0.05


def test_the_same_volumes_give_the_same_registration(pair):
    image, labels, target, _, spacing = pair
    one, two = (register(target, spacing, image, labels, spacing) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.labels, two.labels)


def test_a_volume_laid_onto_itself_stays(pair):
    image, labels, _, _, spacing = pair
    found = register(image, spacing, image, labels, spacing)
    assert found.after > 0.99 and mean_dice(found.labels, labels) > 0.95


def test_the_affine_search_sees_few_voxels_about_as_wide_as_they_are_thick():
    thick = registration.as_image(np.zeros((11, 384, 384), np.uint8), (3.0, 0.6, 0.6))
    seen = registration.searched(thick)
    assert 20_000 < seen.GetNumberOfPixels() <= registration.THICK_VOXELS and seen.GetSize()[2] == 11
    assert max(seen.GetSpacing()) <= 1.5 * min(seen.GetSpacing())
    cubes = registration.as_image(np.zeros((50, 60, 40), np.uint8), (1.0, 1.0, 1.0))
    assert registration.searched(cubes).GetSize() == cubes.GetSize()
    large = registration.searched(registration.as_image(np.zeros((100, 120, 110), np.uint8), (1.0, 1.0, 1.0)))
    assert large.GetNumberOfPixels() <= registration.AFFINE_VOXELS
    unknown = registration.as_image(np.zeros((10, 256, 216), np.uint8), (1.0, 1.0, 1.0))
    assert registration.searched(unknown) is unknown
    picture = registration.as_image(np.zeros((1, 600, 500), np.uint8), (1.0, 1.0, 1.0))
    assert registration.searched(picture) is picture


def test_a_laid_mask_is_kept_unless_too_much_would_be(pair, monkeypatch):
    image, labels, target, _, spacing = pair
    found = register(target, spacing, image, labels, spacing)
    first = found.prior(1)
    assert found.prior(1) is first and not first.flags.writeable and np.array_equal(first, found._lay(1))
    monkeypatch.setattr(registration, "KEPT", 0)
    found._laid.clear()
    assert found.prior(1) is not found.prior(1) and np.array_equal(found.prior(1), first)


def test_masks_and_images_are_laid_alike_whether_the_transform_is_worked_out_or_not(pair, monkeypatch):
    image, labels, target, _, spacing = pair
    one = register(target, spacing, image, labels, spacing)
    monkeypatch.setattr(registration, "WORKED_OUT", 0)
    other = register(target, spacing, image, labels, spacing)
    assert np.array_equal(one.image, other.image) and np.array_equal(one.labels, other.labels)
    assert np.allclose(one.prior(1), other.prior(1), atol=1e-5)


def test_an_affine_that_makes_volumes_less_alike_is_left_out(pair, monkeypatch):
    image, labels, _, _, spacing = pair
    found = register(image, spacing, image, labels, spacing)

    def astray(fixed, moving, start):
        away = sitk.AffineTransform(start)
        away.SetTranslation([150.0, 150.0, 0.0])
        return away

    monkeypatch.setattr(registration, "affine_search", astray)
    assert mean_dice(register(image, spacing, image, labels, spacing).labels, labels) > 0.95
    monkeypatch.setattr(registration, "unless_worse", lambda fixed, moving, start, affine: affine)
    assert mean_dice(register(image, spacing, image, labels, spacing).labels, labels) < 0.7 < found.after


def test_of_opposite_contrasts_the_affine_search_is_believed(pair):
    image, _, _, _, spacing = pair
    fixed, moving = (registration.as_image(one, spacing) for one in (image, 255 - image))
    start = registration.beginning(fixed, moving, None)
    away = sitk.AffineTransform(start)
    away.SetTranslation([40.0, 40.0, 0.0])
    assert registration.unless_worse(fixed, moving, away, start) is start
    assert registration.unless_worse(fixed, fixed, start, away) is start


def test_the_prior_is_the_registered_structure_with_a_soft_border(pair):
    image, labels, target, _, spacing = pair
    found = register(target, spacing, image, labels, spacing)
    prior = found.prior(1)
    assert prior.shape == target.shape and prior.min() >= 0 and prior.max() <= 1.001
    assert dice(prior > 0.5, found.labels == 1) > 0.85


def test_a_part_of_the_body_is_found_from_where_retrieval_saw_it(pair):
    image, labels, _, _, spacing = pair
    part = slice(0, 9)
    shift = ((9 - 1) / 2 - (len(image) - 1) / 2) * spacing[0]
    found = register(image[part], spacing, image, labels, spacing, (shift, 0.0, 0.0))
    assert mean_dice(found.labels, labels[part]) > 0.9


def test_noise_is_not_called_alike(pair):
    image, labels, _, _, spacing = pair
    noise = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    assert not register(noise, spacing, image, labels, spacing).useful


def test_thin_stacks_coloured_volumes_and_tiny_pictures_are_not_registered():
    volume = np.zeros((10, 20, 20), np.uint8)
    assert can_register(volume, volume)
    assert can_register(volume[:1], volume[:1]), "pictures"
    assert can_register(np.zeros((1, 20, 20, 3), np.uint8), volume[:1]), "of any kind"
    assert not can_register(volume[:1, :5], volume[:1])
    assert not can_register(volume[:1], volume) and not can_register(volume, volume[:1])
    assert not can_register(volume[:5], volume)
    assert not can_register(np.zeros((10, 20, 20, 3), np.uint8), volume)


def pictures(side: int = 96):
    """(reference, its labels, target, its labels): (1, R, C); the target is the reference deformed, on another grid."""
    rows, columns = np.mgrid[:side, :side].astype(float)

    def scene(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = np.zeros(y.shape, np.uint16)
        labels[((y - 48) / 34) ** 2 + ((x - 48) / 30) ** 2 < 1] = 1
        labels[((y - 38) / 10) ** 2 + ((x - 40) / 12) ** 2 < 1] = 2
        labels[((y - 60) / 8) ** 2 + ((x - 58) / 11) ** 2 < 1] = 5
        grain = np.random.default_rng(labels.size).normal(0, 3, labels.shape)
        levels = np.array([20, 110, 200, 0, 0, 60])[labels] + grain
        return np.clip(levels, 0, 255).astype(np.uint8)[None], labels[None]

    wave = 4 * np.sin(rows / 14), 4 * np.cos(columns / 16)
    moved = (0.92 * rows + 6 + wave[1])[:, 8:], (1.05 * columns - 3 + wave[0])[:, 8:]
    return *scene(rows, columns), *scene(*moved)


@pytest.fixture(scope="module")
def flat():
    return pictures()


def test_a_picture_is_laid_onto_a_deformed_one(flat):
    image, labels, target, truth = flat
    found = register(target, (1.0, 1.0, 1.0), image, labels, (1.0, 1.0, 1.0))
    assert found.useful and found.after > 0.9
    assert found.image.shape == found.labels.shape == target.shape == (1, 96, 88)
    assert found.image.dtype == np.uint8 and found.labels.dtype == np.uint16
    assert mean_dice(found.labels, truth) > max(0.9, mean_dice(labels[:, :, 8:], truth) + 0.1)
    prior = found.prior(5)
    assert prior.shape == target.shape and 0 <= prior.min() <= prior.max() <= 1
    assert dice(prior > 0.5, truth == 5) > 0.8


def test_the_same_pictures_give_the_same_registration(flat):
    image, labels, target, _ = flat
    one, two = (register(target, (1.0, 1.0, 1.0), image, labels, (1.0, 1.0, 1.0)) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.places(), two.places())


def test_pictures_in_colour_are_registered_by_their_brightness(flat):
    image, labels, target, truth = flat
    for colours in ((True, True), (True, False), (False, True)):
        here, there = (
            np.repeat(one[..., None], 3, 3) if coloured else one
            for one, coloured in zip((target, image), colours, strict=True)
        )
        found = register(here, (1.0, 1.0, 1.0), there, labels, (1.0, 1.0, 1.0))
        assert found.useful and found.image.shape == (1, 96, 88)
        assert mean_dice(found.labels, truth) > 0.9


def test_pictures_of_another_size_are_stretched_onto_each_other(flat):
    image, labels, _, _ = flat
    large = np.repeat(np.repeat(image, 2, 1), 2, 2)
    truth = np.repeat(np.repeat(labels, 2, 1), 2, 2)
    found = register(large, (1.0, 1.0, 1.0), image, labels, (1.0, 1.0, 1.0))
    assert mean_dice(found.labels, truth) > 0.9


@pytest.mark.parametrize("depth", [1, 12])
def test_places_are_the_transforms_points_in_millimetres_from_the_middle(depth):
    rng = np.random.default_rng(depth)
    coarse = rng.integers(0, 255, (max(1, depth // 4), 6, 7), dtype=np.uint8)
    image = np.repeat(np.repeat(np.repeat(coarse, 4, 1), 4, 2), 4 if depth > 1 else 1, 0)
    spacing, theirs = (2.0, 1.0, 1.5), (1.5, 1.2, 1.0)
    found = register(image[:, 2:], spacing, image, np.ones(image.shape, np.uint16), theirs)
    places = found.places()
    assert places.shape == (depth, 22, 28, 3) and places.dtype == np.float32
    for s, r, c in rng.integers(0, (depth, 22, 28), (10, 3)):
        point = (c * 1.5, r * 1.0, s * 2.0)[: 3 if depth > 1 else 2]
        moved = [*found.transform.TransformPoint([float(p) for p in point]), 0.0][:3]
        wanted = np.array(moved[::-1]) - [(n - 1) / 2 * mm for n, mm in zip(image.shape, theirs, strict=True)]
        assert np.allclose(places[s, r, c], wanted, atol=1e-3)
    assert depth > 1 or not places[..., 0].any()


def test_correlation_of_constant_volumes_is_nothing():
    assert correlation(np.zeros((2, 2, 2)), np.ones((2, 2, 2))) == 0
    assert correlation(np.arange(8), np.arange(8)) == pytest.approx(1)


def blobs(seed, size=96):
    """A picture of smooth blobs on black, and the mask of its brightest part."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random((size, size)), 6)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    picture = (field - field.min()) / np.ptp(field) * np.exp(-12 * (rows**2 + columns**2))
    return np.round(255 * picture / picture.max()).astype(np.uint8)


@pytest.mark.parametrize("step", [(22, -20), (-24, 18), (0, 26)])
def test_a_picture_that_lies_elsewhere_is_found(step):
    from rau.references.registration import register

    reference = blobs(4)
    labels = (reference > 120).astype(np.uint16)
    target, truth = (np.roll(one, step, (0, 1)) for one in (reference, labels))
    spacing = (1.0, 1.0, 1.0)
    found = register(target[None], spacing, reference[None], labels[None], spacing)
    both = ((found.labels[0] == 1) & (truth == 1)).sum()
    assert 2 * both / ((found.labels[0] == 1).sum() + truth.sum()) > 0.9 and found.useful


def test_the_best_shift_brings_one_picture_onto_the_other():
    from rau.references.registration import as_image, best_shift

    picture, spacing = blobs(9), (1.0, 0.5, 2.0)
    fixed = as_image(np.roll(picture, (8, -6), (0, 1))[None], spacing)
    likeness, step = best_shift(fixed, as_image(picture[None], spacing))
    assert step == pytest.approx([-6 * 2.0, 8 * 0.5], abs=2.5) and likeness > 0.9


@pytest.mark.parametrize(("angle", "step"), [(-33.0, (0, 6, -5)), (40.0, (0, -4, 4))])
def test_a_volume_that_lies_turned_and_moved_is_found(pair, angle, step):
    from scipy import ndimage

    image, labels, _, _, spacing = pair

    def moved(array, order):
        turned = ndimage.rotate(array.astype(float), angle, (1, 2), reshape=False, order=order)
        return np.roll(turned, step, (0, 1, 2)).round().astype(array.dtype)

    target, truth = moved(image, 1), moved(labels, 0)
    found = register(target, spacing, image, labels, spacing)
    assert found.useful and mean_dice(found.labels, truth) > 0.8


@given(st.floats(-60, 60), st.tuples(*[st.floats(-20, 20)] * 3))
def test_a_turned_start_sends_points_back_turned_and_on(angle, step):
    import SimpleITK as sitk

    from rau.references.registration import after, turn

    start = sitk.AffineTransform(3)
    start.SetMatrix(np.diag([1.2, 0.9, 1.1]).ravel().tolist())
    start.SetCenter((4.0, -3.0, 2.0))
    start.SetTranslation((5.0, 1.0, -2.0))
    middle, point, step = np.array([20.0, 30.0, 8.0]), np.array([3.0, 50.0, 12.0]), np.array(step)
    found = after(start, turn(angle, 3), middle, step).TransformPoint(point.tolist())
    wanted = start.TransformPoint((turn(angle, 3) @ (point - step - middle) + middle).tolist())
    assert found == pytest.approx(wanted, abs=1e-6)


def test_structures_of_a_picture_are_found_where_brightness_alone_does_not_lead():
    """Of three rings in speckle the middle one stays and the others go by their own width: no affine map does that."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:128, :192]

    def picture(*centres: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        image, labels = np.full(rows.shape, 60.0), np.zeros(rows.shape, np.uint16)
        for value, (row, column) in enumerate(centres, 1):
            far = np.hypot(rows - row, columns - column)
            image += 40 * (far < 13) + 120 * ((far >= 13) & (far < 17))
            labels[far < 15] = value
        return (image + rng.normal(0, 12, rows.shape)).clip(0, 255).astype(np.uint8), labels

    image, labels = picture((64, 36), (64, 96), (64, 156))
    target, truth = picture((92, 36), (64, 96), (92, 156))
    spacing = (1.0, 1.0, 1.0)
    found = register(target[None], spacing, image[None], labels[None], spacing)
    assert mean_dice(found.labels[0], truth) > 0.8
    with patch.object(deformation, "FLAT_SEARCHED", ()):
        demons = register(target[None], spacing, image[None], labels[None], spacing)
    assert mean_dice(demons.labels[0], truth) < 0.7


def test_displacements_are_in_millimetres_with_x_first_and_go_on_at_the_border():
    from scipy import ndimage

    from rau.references.deformation import displaced

    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 80)), 3).astype(np.float32)
    moved = np.roll(image, (-4, 6), (0, 1))
    fixed, moving = (registration.as_image(a[None], (1.0, 2.0, 0.5)) for a in (image, moved))
    field = displaced(fixed, moving, 20_000)
    steps = sitk.GetArrayFromImage(field)
    assert np.abs(np.median(steps[15:-15, 15:-15], axis=(0, 1)) - (6 * 0.5, -4 * 2.0)).max() < 0.5
    assert np.array_equal(steps[0], steps[1]) and np.array_equal(steps[:, -1], steps[:, -2])
    corner = field.TransformPhysicalPointToIndex(fixed.GetOrigin())
    assert corner == (1, 1) and field.GetSize() == (82, 62)
