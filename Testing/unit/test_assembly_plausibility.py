"""Structures that do not look like the reference's are not found."""

from __future__ import annotations

import numpy as np

from rau.assembly.plausibility import alike, likeness, unlike

BRIGHTNESS = {1: 200, 2: 120, 3: 60, 4: 150}


def picture(values: dict[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four blocks in a dark volume, each of its brightness."""
    labels = np.zeros((6, 24, 24), np.uint16)
    for k, value in enumerate(BRIGHTNESS):
        labels[1:5, 2 + 5 * k : 6 + 5 * k, 4:20] = value
    image = np.zeros(labels.shape)
    for value, brightness in values.items():
        image[labels == value] = brightness
    noise = np.random.default_rng(seed).normal(0, 4, labels.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), labels


def test_the_same_brightness_is_alike_and_another_is_not():
    here = np.random.default_rng(0).normal(100, 5, 500)
    assert alike(here, here) > 0.97
    assert alike(here + 5, here) > 0.9
    assert alike(here + 60, here) < 0.01


def test_an_organ_replaced_by_other_tissue_is_singled_out():
    reference, target = picture(BRIGHTNESS), picture({**BRIGHTNESS, 3: 0}, seed=1)
    shares = likeness(target[0], target[1], [reference], list(BRIGHTNESS))
    assert min(shares[1], shares[2], shares[4]) > 0.9 and shares[3] < 0.2
    assert unlike(shares, dict.fromkeys(BRIGHTNESS, 0.2)) == [3]


def test_a_structure_that_the_model_is_sure_of_is_kept():
    assert unlike({1: 0.1, 2: 0.9, 3: 0.95}, {1: 0.8, 2: 0.5, 3: 0.5}) == []
    assert unlike({1: 0.1, 2: 0.9, 3: 0.95}, {1: 0.3, 2: 0.3, 3: 0.4}) == [], "a small structure never scores high"


def test_the_lower_the_score_beside_the_others_the_less_unlike_a_structure_must_be():
    scores = {2: 0.5, 3: 0.6}
    for share, score, goes in (
        (0.5, 0.3, True),
        (0.5, 0.4, False),
        (0.5, 0.2, True),
        (0.7, 0.3, False),
        (0.7, 0.2, True),
        (0.9, 0.0, False),
    ):
        assert unlike({1: share, 2: 0.9, 3: 0.95}, {1: score, **scores}) == ([1] if goes else [])
    assert unlike({1: 0.5, 2: 0.9, 3: 0.95}, {1: 0.24, 2: 0.2, 3: 0.3}) == [1], "low by itself"


def test_images_of_another_contrast_are_not_judged():
    reference = picture(BRIGHTNESS)
    target = picture({value: 255 - brightness for value, brightness in BRIGHTNESS.items()}, seed=2)
    shares = likeness(target[0], target[1], [reference], list(BRIGHTNESS))
    assert unlike(shares, dict.fromkeys(BRIGHTNESS, 0.1)) == []


def test_where_one_in_three_of_the_others_is_unlike_too_the_images_are_not_comparable():
    scores = dict.fromkeys(range(1, 8), 0.1)
    assert unlike({1: 0.1, 2: 0.9, 3: 0.9, 4: 0.9, 5: 0.9, 6: 0.9, 7: 0.3}, scores) == [1, 7]
    assert unlike({1: 0.1, 2: 0.9, 3: 0.9, 4: 0.9, 5: 0.9, 6: 0.3, 7: 0.3}, scores) == []


def test_with_nothing_to_compare_with_nothing_is_taken_away():
    assert unlike({1: 0.0}, {1: 0.1}) == []
    assert unlike({1: 0.0, 2: 0.9}, {1: 0.1, 2: 0.5}) == []


def test_the_best_of_several_references_counts_and_specks_are_not_judged():
    one, other = picture(BRIGHTNESS), picture({**BRIGHTNESS, 2: 30})
    target = picture({**BRIGHTNESS, 2: 30}, seed=3)
    assert likeness(target[0], target[1], [one], [2])[2] < 0.1
    assert likeness(target[0], target[1], [one, other], [2])[2] > 0.9
    speck = np.zeros_like(target[1])
    speck[2, 2, 2:5] = 2
    assert likeness(target[0], speck, [one], [2]) == {}
