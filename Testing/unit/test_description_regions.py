"""Coloured regions and their text; a text that says what is not so is caught, sentence by sentence."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from description_side import oblique, scenes, straight
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rau
from builders import phantom
from rau.description.claims import check, described_by, places
from rau.description.regions import MOST, coloured, grid_cells, region_text, regions, size_word, slice_of
from rau.errors import InputError
from rau.vlm.vocabulary import COLOURS
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIVER, SPLEEN, LESION, KIDNEY = (1, "liver"), (2, "spleen"), (3, "lesion"), (4, "left kidney")


def abdomen(known=True):
    """An axial slice: liver right and front with a lesion in it, spleen left, two-piece kidney left and back."""
    array = np.zeros((1, 60, 60), np.uint8)
    array[0, 8:36, 4:30], array[0, 14:20, 8:14] = 1, 3
    array[0, 20:34, 44:56] = 2
    array[0, 44:52, 44:50], array[0, 54:58, 44:50] = 4, 4
    image = np.random.default_rng(0).normal(0, 8, array.shape) + np.array([-80, 60, 110, 10, 90])[array]
    grid = Geometry(array.shape, (5.0, 2.0, 2.0), (-60.0, -50.0, 33.0))
    named = tuple(Structure(value, name) for value, name in (LIVER, SPLEEN, LESION, KIDNEY))
    return regions(Volume(image.astype(np.int16), grid, "CT", spacing_known=known), LabelMap(array, grid, named))


def test_the_text_tells_size_place_shape_margin_and_neighbours():
    text = region_text(abdomen())
    assert text.startswith("The picture shows four regions. The liver (red) is medium-sized (19.2 % of the picture)")
    assert "in the right part, round with a smooth, convex outline and a well defined margin." in text
    assert "The lesion lies within the liver." in text and "The liver borders the lesion." in text
    assert "The left kidney (yellow)" in text and "in the posterior-left part" in text and "in 2 pieces" in text
    assert region_text(()) == ""


def test_a_picture_without_a_patient_has_its_own_left():
    shown = abdomen(known=False)
    assert "The liver (red) is medium-sized (19.2 % of the picture), in the left part" in region_text(shown)
    assert "lower-right part" in region_text(shown)


def test_regions_are_drawn_in_the_colours_that_the_text_names():
    shown = abdomen()
    labels = np.zeros((60, 60), np.uint8)
    labels[20:34, 44:56] = 2
    drawn = coloured(np.zeros((60, 60, 3), np.uint8), labels, shown)
    assert shown[1].colour == "green" and shown[1].name == "spleen"
    seen = drawn[25, 50].astype(int)
    assert seen.argmax() == np.argmax(COLOURS["green"]) and not drawn[0, 0].any()


def test_of_many_structures_the_largest_are_described():
    array = np.zeros((1, 40, 40), np.uint8)
    for value in range(1, 16):
        array[0, 2 * value : 2 * value + 2, 1 : 1 + (value if value != 8 else 1)] = value
    grid = Geometry(array.shape, origin=(1.0, 1.0, 1.0))
    shown = regions(None, LabelMap(array, grid))
    assert len(shown) == MOST and [one.facts.value for one in shown] == [3, 4, 5, 6, 7, *range(9, 16)]
    assert "structure 8" not in region_text(shown) and "structure 2 " not in region_text(shown)


def test_volumes_are_cut_first():
    volume, labels = phantom()
    with pytest.raises(InputError, match="single slices"):
        regions(volume, labels)
    image, cut = slice_of(volume, labels, 0, 4)
    assert np.array_equal(cut.array[0], labels.array[4]) and np.array_equal(image.array[0], volume.array[4])
    assert np.allclose(cut.geometry.to_world(np.array([[0, 3, 2]])), labels.geometry.to_world(np.array([[4, 3, 2]])))


@few
@given(scenes(st.one_of(straight, oblique), flat=True), st.booleans())
def test_the_own_text_is_never_rejected(scene, known):
    volume, labels = scene
    shown = regions(Volume(volume.array, volume.geometry, "CT", spacing_known=known), labels)
    text = region_text(shown)
    checked = check(text, shown)
    assert checked.accepted and checked.text == text
    kinds = {claim.kind for claim in checked.claims}
    assert {"count", "place"} <= kinds


TRUE = [
    ("The liver lies on the right.", "place"),
    ("The spleen is seen in the left part of the picture.", "place"),
    ("The red region is located to the right of the spleen.", "relation"),
    ("The left kidney lies posterior to the spleen.", "relation"),
    ("The lesion is inside the liver.", "relation"),
    ("The liver contains the lesion.", "relation"),
    ("The liver is the largest region.", "size"),
    ("The spleen is smaller than the liver.", "size"),
    ("The liver borders the lesion.", "neighbour"),
    ("The liver does not border the spleen.", "neighbour"),
    ("There are four regions.", "count"),
    ("The left kidney is in two pieces.", "count"),
]
FALSE = [
    ("The liver lies on the left.", "place"),
    ("The spleen is seen in the right part of the picture.", "place"),
    ("The left kidney is in the anterior part.", "place"),
    ("The red region is located to the left of the spleen.", "relation"),
    ("The left kidney lies anterior to the spleen.", "relation"),
    ("The spleen is inside the liver.", "relation"),
    ("The spleen contains the lesion.", "relation"),
    ("The spleen is the largest region.", "size"),
    ("The spleen is larger than the liver.", "size"),
    ("The liver borders the spleen.", "neighbour"),
    ("The liver abuts the lesion and the green region.", "neighbour"),
    ("The liver borders the pancreas.", "neighbour"),
    ("The spleen is adjacent to the falciform pouch.", "neighbour"),
    ("The liver does not touch the lesion.", "neighbour"),
    ("There are five regions.", "count"),
    ("The left kidney is in 3 pieces.", "count"),
    ("The pancreas is small.", "existence"),
]


@pytest.mark.parametrize(("text", "kind"), TRUE)
def test_a_true_statement_is_kept(text, kind):
    checked = check(text, abdomen())
    assert checked.accepted and checked.text == text and checked.contradicted == {}
    assert kind in {claim.kind for claim in checked.claims}


@pytest.mark.parametrize(("text", "kind"), FALSE)
def test_a_wrong_statement_is_caught_and_counted(text, kind):
    before, after = "The liver lies on the right.", "The spleen is small."
    checked = check(f"{before} {text} {after}", abdomen())
    assert not checked.accepted and checked.rejected == (text,)
    assert checked.text == f"{before} {after}"
    assert checked.contradicted == {kind: 1}


def test_it_is_the_subject_of_the_sentence_before():
    checked = check("The spleen is small. It lies on the right. Its outline is smooth, in the left part.", abdomen())
    assert checked.rejected == ("It lies on the right.",)


def test_a_side_in_a_name_is_no_place():
    checked = check("The left kidney is posterior.", abdomen())
    assert [claim.said for claim in checked.claims] == ["posterior"] and checked.accepted


def test_what_is_not_understood_is_left_alone():
    text = "Contrast was given. The liver is smooth. It borders the edge of the image."
    checked = check(text, abdomen())
    assert checked.accepted and checked.claims == () and checked.text == text
    assert check("", abdomen()).text == ""


def test_a_describer_is_checked_and_replaced_where_nothing_of_its_text_is_left():
    shown, asked = abdomen(), []

    def describer(picture, legend):
        asked.append((picture.shape, dict(legend)))
        return answer

    answer = "The liver lies on the right. The spleen touches the liver."
    told = described_by(describer, np.zeros((60, 60, 3), np.uint8), shown)
    assert told.text == "The liver lies on the right." and told.contradicted == {"neighbour": 1}
    assert asked[0] == ((60, 60, 3), {"red": "liver", "green": "spleen", "blue": "lesion", "yellow": "left kidney"})
    answer = "The liver lies on the left."
    told = described_by(describer, np.zeros((60, 60, 3), np.uint8), shown)
    assert told.text == region_text(shown) and told.rejected == (answer,)


@few
@given(scenes(straight, flat=True), st.data())
def test_a_seeded_wrong_side_is_always_caught(scene, data):
    """Turn the side in the own text round: the sentence goes, the others stay."""
    shown = regions(*scene)
    one = data.draw(st.sampled_from(shown))
    other = {"left": "right", "right": "left"}
    for word in places(one.facts) & set(other):
        if other[word] not in places(one.facts):
            wrong = f"The {one.name} lies on the {other[word]}."
            checked = check(f"{region_text(shown)} {wrong}", shown)
            assert checked.rejected == (wrong,) and checked.contradicted == {"place": 1}
    for third in shown:
        touched = {n.name for n in one.facts.neighbours if n.share > 0}
        wrong = f"The {one.name} borders the {third.name}."
        if third is not one:
            assert check(wrong, shown).accepted == (third.name in touched)


def test_sizes_and_cells_follow_their_thresholds():
    shown = {one.name: one.facts for one in abdomen()}
    assert size_word(shown["lesion"]) == "tiny" and size_word(shown["spleen"]) == "small"
    assert grid_cells(shown["left kidney"]) == {"anterior-posterior": "posterior", "left-right": "left"}
    assert places(shown["liver"]) == {"right", "centre"}


def test_no_step_of_inference_reads_the_training_text():
    """Regions and claims are imported by each other, by the data set and by nothing that segments."""
    allowed = {"claims.py", "dataset.py", "review.py"}
    root = Path(rau.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if module.startswith(("rau.description.regions", "rau.description.claims")):
                training = "training" in path.relative_to(root).parts
                assert training or (path.parent.name == "description" and path.name in allowed), path.name
