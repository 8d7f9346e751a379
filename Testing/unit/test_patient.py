"""The synthetic patients of the demo: one anatomy, two patients, CT values, one organ absent."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rau.training.patient import ABSENT, patient_pair
from rau.volume.terminology import parsed


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other))


def test_one_organ_is_absent_in_the_target_and_the_rest_is_there():
    reference, (target, truth) = patient_pair(3)
    names = {one.name for one in reference.structures}
    assert names - {one.name for one in truth.structures} == {ABSENT}
    assert set(np.unique(truth.array)) - {0} == {one.value for one in truth.structures}
    assert set(np.unique(reference.labels.array)) - {0} == {one.value for one in reference.structures}
    assert len(names) >= 7
    assert truth.geometry.matches(target.geometry)


def test_same_seed_same_voxels_and_other_seed_others():
    one, two, other = (patient_pair(seed, (12, 32, 32)) for seed in (5, 5, 6))
    assert np.array_equal(one[0].image.array, two[0].image.array)
    assert np.array_equal(one[1][1].array, two[1][1].array)
    assert not np.array_equal(one[0].image.array, other[0].image.array)
    assert not np.array_equal(one[0].image.array, one[1][0].array)


def test_values_are_hounsfield_units():
    reference, (target, truth) = patient_pair(0)
    for image, labels in ((reference.image, reference.labels), (target, truth)):
        assert image.modality == "CT"
        assert image.array.dtype == np.int16
        assert np.median(image.array[0, :4, :4]) < -950
        assert 70 < np.median(image.array[labels.array == 1]) < 150
        assert 150 < np.median(image.array[labels.array == 6]) < 260
        assert np.percentile(image.array, 99.9) > 250
    left, right = (np.argwhere(truth.array == value).mean(0) for value in (3, 4))
    assert truth.geometry.to_world(left[None])[0, 0] > 20 > -20 > truth.geometry.to_world(right[None])[0, 0]


def test_copying_the_reference_leaves_something_to_do():
    scores = []
    for seed in range(4):
        reference, (_, truth) = patient_pair(seed)
        for one in truth.structures:
            scores.append(dice(reference.labels.array == one.value, truth.array == one.value))
    assert 0.4 < np.mean(scores) < 0.65


def test_codes_are_such_as_slicer_reads():
    for one in patient_pair(0, (12, 32, 32))[0].structures:
        terms = parsed(one.terminology)
        assert terms is not None
        assert terms.type.scheme == "SCT"
        assert one.terminology.count("~") == 6
        if one.name.split()[0] in ("left", "right"):
            assert terms.modifier.meaning.lower() == one.name.split()[0]


@pytest.mark.parametrize("shape", [(48, 128, 128), (20, 64, 96)])
def test_field_of_view_does_not_depend_on_the_grid(shape):
    start = time.perf_counter()
    reference, _ = patient_pair(0, shape)
    assert time.perf_counter() - start < 5
    extent = np.array(reference.image.geometry.shape) * reference.image.geometry.spacing
    assert np.allclose(extent, (192, 346, 346))
