"""Prose says nothing but facts: every number, every side and every structure in it is one, and doubts are said."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from description_side import NAMES, oblique, scenes, straight, with_names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import phantom
from rau.description import describe
from rau.description.measuring import measure
from rau.description.prose import capital, caveats, figure, listed, outline_word, prose, shape_word
from rau.volume.volume import Geometry, Volume

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
SIDES = ("left", "right", "anterior", "posterior", "superior", "inferior")


def leaves(told):
    if isinstance(told, dict):
        for one in told.values():
            yield from leaves(one)
    elif isinstance(told, list):
        for one in told:
            yield from leaves(one)
    else:
        yield told


def only_facts(description):
    """The prose's numbers, sides and names are among the facts' own."""
    told = description.as_json()
    known = list(leaves(told["facts"])) + [told["score"]]
    numbers = [one for one in known if isinstance(one, (int, float)) and not isinstance(one, bool)]
    allowed = {figure(one) for one in numbers} | {figure(100 * one) for one in numbers} | {str(one) for one in numbers}
    text = re.sub(r"score (\S+) of 1", r"score \1", description.text)
    for number in NUMBER.findall(text):
        assert number in allowed, (number, description.text)
    words = {one for one in known if isinstance(one, str)}
    plain = text
    for axis in told["facts"]["extent"]:
        plain = plain.replace(axis, "")
    for side in SIDES:
        if re.search(rf"\b{side}\b", plain):
            assert side in words, (side, description.text)
    for name in NAMES.values():
        if re.search(rf"\b{name}\b", plain.lower()):
            assert name in words, (name, description.text)


@few
@given(scenes(st.one_of(straight, oblique)), st.sampled_from((None, 0.2, 0.47, 0.93)))
def test_every_number_side_and_neighbour_is_a_fact(scene, score):
    for one in describe(*scene, scores=None if score is None else dict.fromkeys(NAMES, score)):
        only_facts(one)
        assert one.score == score


@few
@given(scenes(straight, flat=True), st.booleans())
def test_in_single_slices_too(scene, known):
    volume, labels = scene
    for one in describe(replace(volume, spacing_known=known), labels):
        only_facts(one)


def test_facts_and_prose_are_ready_for_json_and_the_same_every_time():
    volume, labels = phantom()
    once, twice = (json.dumps([one.as_json() for one in describe(volume, labels)], allow_nan=False) for _ in range(2))
    assert once == twice
    assert set(json.loads(once)[0]) == {"facts", "score", "text"}


def ball(radius=6.0, hu=60, around=-80, noise=10, size=24):
    z, y, x = np.indices((size,) * 3) - (size - 1) / 2
    mask = x**2 + y**2 + z**2 <= radius**2
    array = np.where(mask, hu, around) + np.random.default_rng(0).normal(0, noise, mask.shape)
    grid = Geometry(mask.shape, origin=(-10.0, 0.0, 0.0))
    return Volume(array.astype(np.int16), grid, "CT"), with_names(mask.astype(np.uint8), grid)


@pytest.mark.parametrize(
    ("modality", "word"),
    [("CT", "hyperdense to"), ("MR", "hyperintense to"), ("US", "hyperechoic to"), ("XR", "brighter than")],
)
def test_contrast_is_told_in_the_words_of_the_modality(modality, word):
    volume, labels = ball()
    (one,) = describe(replace(volume, modality=modality), labels)
    assert f"{word} its surroundings" in one.text
    assert ("HU" in one.text) == (modality == "CT")


@pytest.mark.parametrize(("hu", "word"), [(-90, "fat"), (5, "fluid"), (50, "soft tissue"), (700, "bone")])
def test_density_is_told_of_ct_alone(hu, word):
    volume, labels = ball(hu=hu, around=hu - 300)
    assert f"in the range of {word}" in describe(volume, labels)[0].text
    assert "in the range of" not in describe(replace(volume, modality="MR"), labels)[0].text


def test_a_ball_is_round_with_a_smooth_outline_and_a_stick_is_elongated():
    volume, labels = ball(radius=9)
    (facts,) = measure(volume, labels)
    assert shape_word(facts) == "round" and "smooth" in outline_word(facts)
    stick = np.zeros((24, 24, 24), np.uint8)
    stick[10:12, 11:13, 2:22] = 1
    plate = np.zeros((24, 24, 24), np.uint8)
    plate[11:13, 2:22, 2:22] = 1
    branches = stick | np.transpose(stick, (0, 2, 1))
    told = [measure(None, with_names(one, labels.geometry))[0] for one in (stick, plate, branches)]
    assert [shape_word(one) for one in told[:2]] == ["elongated", "flat"]
    assert "branching" in outline_word(told[2])


def test_doubts_are_said():
    volume, labels = ball()
    (sure,) = measure(volume, labels)
    assert caveats(sure, 0.9) == [] and caveats(sure, None) == []
    assert "Uncertain (score 0.31 of 1)" in prose(sure, 0.31)
    (unknown,) = measure(replace(volume, spacing_known=False), labels)
    assert "spacing of the image is not known: sizes are in voxels" in prose(unknown)
    cut = with_names(np.where(np.arange(24)[:, None, None] < 12, labels.array, 0)[6:], Geometry((18, 24, 24)))
    cut = with_names(cut.array[:6], Geometry((6, 24, 24), origin=(1.0, 0.0, 0.0)))
    assert "Cut off at the edge of the image (inferior and superior)" in describe(None, cut)[0].text
    dot = np.zeros((24, 24, 24), np.uint8)
    dot[3, 3, 3] = 1
    told = describe(volume, with_names(dot, labels.geometry))[0].text
    assert "Of 1 voxel only" in told and "It is" not in told
    wrong = describe(volume, with_names(np.roll(labels.array, 6, 2), labels.geometry, {1: "right kidney"}))[0].text
    assert "Its name says right, it lies on the left: to be checked." in wrong


def test_pieces_neighbours_and_what_surrounds_are_told():
    array = np.zeros((20, 20, 20), np.uint8)
    array[4:16, 4:16, 4:16] = 1
    array[8:12, 8:12, 8:12] = 2
    array[4:10, 4:8, 16:19], array[18, 18, 18] = 3, 3
    grid = Geometry(array.shape, origin=(1.0, 1.0, 1.0))
    liver, spleen, kidney = (one.text for one in describe(None, with_names(array, grid)))
    assert "It surrounds the spleen." in liver and "It lies within the liver." in spleen
    assert re.search(r"It borders the kidney \([a-z, ]*left, \d.*% of its border\)", liver)
    assert "in 2 pieces, the largest with" in kidney
    assert "spleen" not in kidney


def test_words_in_a_list():
    assert listed(["a"]) == "a" and listed(["a", "b"]) == "a and b" and listed(["a", "b", "c"]) == "a, b and c"
    assert capital("left kidney") == "Left kidney"


@pytest.mark.parametrize(
    ("value", "written"), [(1134.67, "1135"), (99.96, "100"), (54.93, "54.9"), (0.03621, "0.0362"), (7.0, "7")]
)
def test_figures_have_three_digits(value, written):
    assert figure(value) == written
