"""A reference laid onto the target by registration."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_slices_thin_stacks_and_colours_are_not_registered():
    volume = np.zeros((10, 20, 20), np.uint8)
    assert can_register(volume, volume)
    assert not can_register(volume[:1], volume[:1])
    assert not can_register(volume[:5], volume)
    assert not can_register(np.zeros((10, 20, 20, 3), np.uint8), volume)


def test_correlation_of_constant_volumes_is_nothing():
    assert correlation(np.zeros((2, 2, 2)), np.ones((2, 2, 2))) == 0
    assert correlation(np.arange(8), np.arange(8)) == pytest.approx(1)
