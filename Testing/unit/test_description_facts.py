"""Every fact is measured a second time by brute force; how an image is stored changes none; a mirror turns sides."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from description_side import AXES, NAMES, WORDS, Brute, oblique, scenes, stored_otherwise, straight, with_names
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from builders import phantom
from rau.description import describe
from rau.description.frame import has_patient_frame
from rau.description.measuring import DENSITIES, measure
from rau.description.shape import surface
from rau.description.sides import partners, side_named
from rau.errors import InputError
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
any_direction = st.one_of(straight, oblique)


def close(one, other, path=""):
    """The same JSON, numbers up to rounding."""
    assert type(one) is type(other) or {type(one), type(other)} == {int, float}, path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), (path, one, other)
        for k, (a, b) in enumerate(zip(one, other)):
            close(a, b, f"{path}[{k}]")
    elif isinstance(one, (int, float)) and not isinstance(one, bool):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-4), (path, one, other)
    else:
        assert one == other, (path, one, other)


@few
@given(scenes(any_direction))
def test_size_shape_and_place_are_those_of_the_mask(scene):
    volume, labels = scene
    for facts in measure(volume, labels):
        brute = Brute(volume, labels, facts.value)
        assert facts.voxels == len(brute.index) and facts.name == NAMES[facts.value]
        assert facts.volume_ml == pytest.approx(brute.size() / 1000) and facts.area is None
        assert facts.share_of_image == pytest.approx(len(brute.index) / volume.array.size)
        assert list(facts.extent) == list(AXES)
        assert list(facts.extent.values()) == pytest.approx(brute.extent().tolist())
        lengths = brute.principal()
        assert facts.axes == pytest.approx(lengths.tolist(), abs=1e-6)
        assert facts.elongation == pytest.approx(lengths[1] / lengths[0])
        assert facts.flatness == pytest.approx(lengths[2] / lengths[0])
        assert facts.solidity == pytest.approx(min(1, brute.solidity()))
        assert (facts.pieces, facts.largest_piece) == pytest.approx(brute.pieces())
        assert facts.centre == pytest.approx(brute.centres.mean(0).tolist())
        assert list(facts.position.values()) == pytest.approx(brute.share_of(brute.view()).tolist())
        inner = brute.share_of(brute.all_labelled()).tolist()
        assert list(facts.position_in_labels.values()) == pytest.approx(inner)
        ball = (36 * np.pi * brute.size() ** 2) ** (1 / 3)
        assert facts.compactness == pytest.approx(min(1.0, ball / facts.surface))


@few
@given(scenes(straight, flat=True))
def test_a_single_slice_has_area_and_no_fact_across_it(scene):
    volume, labels = scene
    assume(has_patient_frame(volume, labels.geometry))  # one at exactly the origin is a picture: the next test
    for facts in measure(volume, labels):
        brute = Brute(volume, labels, facts.value)
        across = int(np.argmax(np.abs(np.asarray(labels.geometry.direction)[:, brute.flat()])))
        kept = [a for a in range(3) if a != across]
        assert facts.area == pytest.approx(brute.size()) and facts.volume_ml is None
        assert facts.flatness is None and facts.level is None
        assert facts.extent == pytest.approx({AXES[a]: brute.extent()[a] for a in kept})
        assert facts.axes == pytest.approx(brute.principal().tolist(), abs=1e-6)
        assert facts.solidity == pytest.approx(min(1, brute.solidity()))
        assert set(facts.position) == {AXES[a] for a in kept}
        assert (facts.side is None) == (across == 0)
        assert set(facts.cut_off) == brute.ends_touched()


@few
@given(scenes(straight), st.sampled_from((1.0, 0.8)))
def test_the_surface_is_what_itk_finds_in_cubic_voxels(scene, spacing):
    import SimpleITK as sitk

    _, labels = scene
    for value in np.unique(labels.array[labels.array > 0]):
        mask = labels.array == value
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing([spacing] * 3)
        known = sitk.LabelShapeStatisticsImageFilter()
        known.Execute(image)
        assert surface(mask, [spacing] * 3, (0, 1, 2)) == pytest.approx(known.GetPerimeter(1), rel=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 0.7, 2.5)])
def test_the_surface_of_a_ball_is_near_the_true_one_in_any_voxels(spacing):
    lines = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip([int(44 / s) + 3 for s in spacing], spacing)]
    z, y, x = np.meshgrid(*lines, indexing="ij")
    found = surface(z**2 + y**2 + x**2 < 20**2, spacing, (0, 1, 2))
    assert found == pytest.approx(4 * np.pi * 20**2, rel=0.04)


def test_the_perimeter_of_a_disc_and_of_an_ellipse():
    row, column = np.indices((61, 61)) - 30
    disc = (row**2 + column**2 <= 25**2)[None]
    assert surface(disc, (9.0, 1.0, 1.0), (1, 2)) == pytest.approx(2 * np.pi * 25, rel=0.03)
    ellipse = 2 * np.pi * 25 * 1.5421  # half axes 25 and 50
    assert surface(disc, (9.0, 2.0, 1.0), (1, 2)) == pytest.approx(ellipse, rel=0.05)


@few
@given(scenes(straight))
def test_level_side_and_cut_ends_are_those_of_the_mask(scene):
    volume, labels = scene
    grid = labels.geometry
    for facts in measure(volume, labels):
        brute = Brute(volume, labels, facts.value)
        world_of = [int(np.argmax(np.abs(np.asarray(grid.direction)[:, a]))) for a in range(3)]
        widest = max(range(3), key=lambda a: (grid.spacing[a], world_of[a]))
        rest = [s for a, s in enumerate(grid.spacing) if a != widest]
        axis = widest if grid.spacing[widest] > 1.3 * np.mean(rest) else world_of.index(2)
        rising = np.asarray(grid.direction)[world_of[axis], axis] > 0
        places = brute.index[:, axis] if rising else grid.shape[axis] - 1 - brute.index[:, axis]
        level = facts.level
        assert (level.first, level.last) == (places.min() + 1, places.max() + 1)
        assert level.largest - 1 == np.argmax(np.bincount(places)) and level.count == grid.shape[axis]
        assert level.plane == ("sagittal", "coronal", "axial")[world_of[axis]]
        assert level.counted_from == WORDS[world_of[axis]][0]
        low, high = brute.view()
        offset = brute.centres[:, 0].mean() - (low[0] + high[0]) / 2
        assert facts.side.distance == pytest.approx(abs(offset), abs=1e-6) and facts.side.relative_to == "image"
        if abs(abs(offset) - 0.03 * (high[0] - low[0])) > 1e-5:
            near = abs(offset) < 0.03 * (high[0] - low[0])
            assert facts.side.word == ("midline" if near else "left" if offset > 0 else "right")
        assert set(facts.cut_off) == brute.ends_touched()


@few
@given(scenes(any_direction))
def test_intensities_contrast_and_margin_are_those_of_the_image(scene):
    volume, labels = scene
    for facts in measure(volume, labels):
        brute = Brute(volume, labels, facts.value)
        values, seen = brute.values(), facts.intensity
        assert seen.unit == "HU" and seen.channels == ()
        told = (seen.mean, seen.sd, seen.median, seen.percentile_5, seen.percentile_95)
        true = (values.mean(), values.std(), *np.percentile(values, (50, 5, 95)))
        assert told == pytest.approx(true, abs=1e-5)
        fits = [word for top, word in DENSITIES if seen.mean < top][0]
        assert seen.density == (fits if seen.sd <= 100 else None)
        least, numbers, all_values = brute.distances()
        assume(np.all(np.abs(least - brute.reach()) > 1e-4))
        outside = all_values[(least <= brute.reach()) & (numbers != facts.value)]
        assert facts.contrast is not None and facts.contrast.reach == pytest.approx(brute.reach())
        difference = values.mean() - outside.mean()
        assert facts.contrast.difference == pytest.approx(difference, abs=1e-5)
        pooled = np.sqrt((values.var() + outside.var()) / 2)
        assert facts.contrast.in_sd == pytest.approx(difference / pooled, abs=1e-5)
        if abs(abs(difference / pooled) - 0.5) > 1e-5:
            word = "similar" if abs(difference / pooled) < 0.5 else "brighter" if difference > 0 else "darker"
            assert facts.contrast.word == word
        _, steps, slopes = brute.faces()
        assert facts.margin.gradient == pytest.approx(np.mean(slopes))
        inside = brute.steps_inside()
        if not inside:
            assert facts.margin.ratio is None and facts.margin.grade is None
            continue
        floor = 1e-3 * (float(volume.array.max()) - float(volume.array.min()))
        ratio = np.mean(steps) / max(np.mean(inside), floor)
        assert facts.margin.ratio == pytest.approx(ratio, abs=1e-5)
        if min(abs(ratio - 3), abs(ratio - 1.5)) > 1e-5:
            grade = "well defined" if ratio > 3 else "moderately defined" if ratio > 1.5 else "ill defined"
            assert facts.margin.grade == grade


@few
@given(scenes(straight))
def test_neighbours_shares_gaps_and_directions_are_those_of_the_masks(scene):
    volume, labels = scene
    found = {facts.value: facts for facts in measure(volume, labels)}
    brutes = {value: Brute(volume, labels, value) for value in found}
    shares = {}
    for value, brute in brutes.items():
        area, _, _ = brute.faces()
        shares[value] = {other: part / sum(area.values()) for other, part in area.items() if other > 0}
    for value, facts in found.items():
        least, numbers, _ = brutes[value].distances()
        assume(np.all(np.abs(least - brutes[value].reach()) > 1e-4))
        near = {other: least[numbers == other].min() for other in found if other != value}
        near = {other: gap for other, gap in near.items() if gap <= brutes[value].reach()}
        assert {one.value for one in facts.neighbours} == set(near) | set(shares[value])
        for one in facts.neighbours:
            assert one.name == NAMES[one.value]
            assert one.share == pytest.approx(shares[value].get(one.value, 0.0))
            assert one.gap == pytest.approx(0.0 if one.share else near[one.value], rel=1e-5)
            way = brutes[one.value].centres.mean(0) - brutes[value].centres.mean(0)
            if np.linalg.norm(way) < 1e-5:
                assert one.direction == ()
                continue
            cosines = way / np.linalg.norm(way)
            assume(np.all(np.abs(np.abs(cosines) - 0.5) > 1e-4))
            assert set(one.direction) == {WORDS[a][int(c > 0)] for a, c in enumerate(cosines) if abs(c) > 0.5}
        holders = [other for other, share in shares[value].items() if share >= 0.9]
        assert facts.contained_in == (NAMES[holders[0]] if holders else None)
        held = {NAMES[other] for other in found if shares[other].get(value, 0) >= 0.9}
        assert set(facts.surrounds) == held


@few
@given(scenes(any_direction), st.permutations((0, 1, 2)).map(tuple), st.tuples(*[st.booleans()] * 3), st.booleans())
def test_how_the_array_is_stored_changes_no_fact(scene, order, flips, is_slice):
    volume, labels = scene
    if is_slice:
        kept = volume.geometry.shape[0] // 2
        assume(np.any(labels.array[kept]))
        origin = tuple(volume.geometry.to_world(np.array([[kept, 0, 0]]))[0])
        grid = Geometry((1, *labels.array.shape[1:]), volume.geometry.spacing, origin, volume.geometry.direction)
        volume = Volume(volume.array[kept : kept + 1], grid, "CT")
        labels = LabelMap(labels.array[kept : kept + 1], grid, labels.structures)
    other = stored_otherwise(volume, labels, order, flips)
    for one, two in zip(describe(volume, labels), describe(*other), strict=True):
        close(one.facts.as_json(), two.facts.as_json())


TURNED = {"left": "right", "right": "left"}


def turned(told):
    """The JSON of facts, seen in a mirror that swaps left and right."""
    if isinstance(told, dict):
        return {key: turned(one) for key, one in told.items()}
    if isinstance(told, list):
        return [turned(one) for one in told]
    return TURNED.get(told, told) if isinstance(told, str) else told


def turned_text(text):
    return re.sub(r"\b(left|right)\b(?!-right)(?<!left-right)", lambda m: TURNED[m[1]], text)


@few
@given(scenes(st.just(Geometry((1, 1, 1)).direction)), st.integers(1, 3))
def test_a_mirror_turns_every_side_word_and_nothing_else(scene, margin):
    volume, labels = scene
    array = np.pad(labels.array, ((0, 0), (0, 0), (margin, margin)))  # cut off at one side is told in its own test
    image = np.pad(volume.array, ((0, 0), (0, 0), (margin, margin)), mode="reflect")
    spacing = tuple(sorted(volume.geometry.spacing, reverse=True))  # sagittal slices are counted from a side
    grid = Geometry(array.shape, spacing, volume.geometry.origin)
    here = describe(Volume(image, grid, "CT"), with_names(array, grid))
    there = describe(Volume(image[..., ::-1], grid, "CT"), with_names(array[..., ::-1], grid))
    middle = 2 * grid.origin[0] + (grid.shape[2] - 1) * grid.spacing[2]
    for one, two in zip(here, there, strict=True):
        expected = turned(one.facts.as_json())
        expected["centre"][0] = middle - expected["centre"][0]
        for key in ("position", "position_in_labels"):
            expected[key]["left-right"] = 1 - expected[key]["left-right"]
        close(expected, two.facts.as_json())
        assert turned_text(one.text) == two.text


def test_an_end_that_cuts_off_changes_sides_in_a_mirror():
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 2:4, 5:] = 1
    grid = Geometry(array.shape, origin=(1.0, 2.0, 3.0))
    (here,), (there,) = (measure(None, with_names(one, grid)) for one in (array, array[..., ::-1]))
    assert here.cut_off == ("left",) and there.cut_off == ("right",)
    assert here.side.word == "left" and there.side.word == "right"


def test_partners_tell_the_sides_better_than_the_middle_of_the_image():
    labels = np.zeros((3, 5, 40), np.uint8)
    labels[1, 2, 4:7], labels[1, 2, 12:15], labels[1, 2, 30:34] = 1, 2, 3
    grid = Geometry(labels.shape, origin=(5.0, 0.0, 0.0))
    names = {1: "Right kidney", 2: "kidney_left", 3: "left kidney"}
    right, odd, left = measure(None, with_names(labels, grid, names))
    assert right.side.word == "right" and right.side.relative_to == "left kidney"
    assert left.side.word == "left" and left.side.relative_to == "Right kidney"
    assert left.side.distance == pytest.approx((31.5 - 5) / 2)
    assert odd.side.relative_to == "image" and odd.side.word == "right" and odd.side.contradicts_name
    assert not left.side.contradicts_name


@pytest.mark.parametrize(
    ("name", "side"),
    [("left kidney", "left"), ("kidney_right", "right"), ("Right Lung", "right"), ("cleft", None), ("liver", None)],
)
def test_a_side_in_a_name_is_a_word_of_its_own(name, side):
    assert side_named(name) == side


def test_partners_need_both_names():
    assert partners({1: "left lung", 2: "RIGHT LUNG", 3: "left kidney", 4: "liver"}) == {1: 2, 2: 1}


def test_a_picture_has_a_left_of_its_own_and_pixels():
    labels = np.zeros((1, 20, 30), np.uint8)
    labels[0, 2:6, 3:9] = 1
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (1, 20, 30, 3), dtype=np.uint8)
    grid = Geometry(labels.shape)
    (facts,) = measure(Volume(image, grid, "OT", spacing_known=False), with_names(labels, grid))
    assert (facts.frame, facts.unit) == ("picture", "pixels")
    assert facts.extent == {"width": 6.0, "height": 4.0} and facts.area == 24
    assert facts.side.word == "left" and facts.side.named is None and facts.level is None
    assert facts.centre[:2] == (5.5, 3.5)
    assert facts.intensity.channels == pytest.approx(image[labels == 1].mean(0).tolist())
    assert facts.intensity.mean == pytest.approx(image[labels == 1].mean())
    assert facts.intensity.unit == "grey levels" and facts.intensity.density is None


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (5, 1, 1), (1, 1, 1), (2, 2, 2)])
def test_the_smallest_images_are_measured_too(shape):
    array = np.zeros(shape, np.uint16)
    array[0, 0, 0] = 300
    grid = Geometry(shape, (2.0, 3.0, 4.0), (5.0, 6.0, 7.0))
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (one,) = describe(Volume(image, grid, "MR"), LabelMap(array, grid))
    assert one.facts.voxels == 1 and one.facts.solidity == 1 and one.facts.pieces == 1
    assert "Of 1 voxel only" in one.text and json.dumps(one.as_json(), allow_nan=False)


def test_labels_of_a_plain_picture_alone_are_in_pixels():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, 2:5, 2:5] = 1
    (facts,) = measure(None, with_names(labels, Geometry(labels.shape)))
    assert (facts.unit, facts.frame, facts.area) == ("pixels", "picture", 9.0)
    (facts,) = measure(None, with_names(labels, Geometry(labels.shape, (1.0, 0.5, 0.5))))
    assert (facts.unit, facts.frame, facts.area) == ("mm", "picture", 2.25)


def test_where_the_spacing_is_unknown_nothing_is_told_in_millimetres_or_of_the_patient():
    volume, labels = phantom()
    unknown = Volume(volume.array, volume.geometry, "MR", spacing_known=False)
    for facts in measure(unknown, labels):
        assert facts.unit == "voxels" and facts.volume_ml is None and facts.frame == "picture"
        assert max(facts.extent.values()) <= max(volume.geometry.shape)
        assert not re.search(r"\b(mm|ml|HU|anterior|superior)", describe(unknown, labels, only=[facts.value])[0].text)


def test_no_fact_without_a_mask():
    volume, labels = phantom()
    more = LabelMap(labels.array, labels.geometry, (*labels.structures, Structure(9, "spleen")))
    assert [one.facts.value for one in describe(volume, more)] == [1, 2, 7]
    assert describe(volume, more, only=[9]) == ()
    nothing = LabelMap(np.zeros_like(labels.array), labels.geometry, labels.structures)
    assert describe(volume, nothing) == ()
    assert "spleen" not in json.dumps([one.as_json() for one in describe(volume, more)])


def test_without_an_image_there_is_nothing_of_intensities():
    _, labels = phantom()
    for facts in measure(None, labels):
        assert facts.intensity is None and facts.contrast is None and facts.margin is None
        assert facts.volume_ml and facts.surface


@pytest.mark.parametrize(("buried", "contained"), [(15, False), (18, False), (19, True), (20, True)])
def test_contained_is_what_has_nine_tenths_of_its_border_in_common(buried, contained):
    """A rod of 20 voxels, 82 faces: its four long sides lie in the liver over `buried` voxels, one end does too."""
    array = np.zeros((7, 7, 30), np.uint8)
    array[1:6, 1:6, 2 : 5 + buried] = 1
    array[3, 3, 5:25] = 2
    liver, spleen = measure(None, with_names(array, Geometry(array.shape, origin=(1.0, 1.0, 1.0))))
    assert spleen.neighbours[0].share == pytest.approx((4 * buried + 1) / 82)
    assert (spleen.contained_in == "liver") == contained and (liver.surrounds == ("spleen",)) == contained


def test_only_some_structures_still_have_all_their_neighbours():
    volume, labels = phantom()
    assert measure(volume, labels, only=[2]) == (measure(volume, labels)[1],)


def test_a_label_without_a_name_is_called_by_its_value():
    volume, labels = phantom()
    bare = LabelMap(labels.array, labels.geometry)
    assert [one.name for one in measure(volume, bare)] == ["structure 1", "structure 2", "structure 7"]


def test_another_grid_is_refused():
    volume, labels = phantom()
    moved = Geometry(labels.geometry.shape, labels.geometry.spacing, (0.0, 0.0, 0.0), labels.geometry.direction)
    with pytest.raises(InputError, match="another grid"):
        measure(volume, LabelMap(labels.array, moved, labels.structures))


def test_slabs_change_nothing(monkeypatch):
    volume, labels = phantom()
    whole = [one.as_json() for one in describe(volume, labels)]
    monkeypatch.setattr("rau.description.borders.SLAB", 1)
    monkeypatch.setattr("rau.description.surroundings.SLAB", 1)
    close(whole, [one.as_json() for one in describe(volume, labels)])


def test_a_constant_image_has_no_contrast_and_no_margin():
    _, labels = phantom()
    even = Volume(np.full(labels.array.shape, 7, np.int16), labels.geometry, "MR")
    for facts in measure(even, labels):
        assert facts.contrast.in_sd is None and facts.contrast.word == "similar"
        assert facts.margin.gradient == 0 and facts.margin.grade is None


def test_a_sharp_edge_is_well_defined_and_a_blurred_one_is_not():
    from scipy import ndimage

    z, y, x = np.indices((24, 24, 24)) - 11.5
    mask = x**2 + y**2 + z**2 < 64
    noise = np.random.default_rng(1).normal(0, 5, mask.shape)
    grid, labels = Geometry(mask.shape), with_names(mask.astype(np.uint8), Geometry(mask.shape))
    grades = []
    for sigma in (0, 1.5, 6):
        image = ndimage.gaussian_filter(mask * 60.0, sigma) + noise
        grades.append(measure(Volume(image.astype(np.float32), grid, "MR"), labels)[0].margin.grade)
    assert grades == ["well defined", "moderately defined", "ill defined"]
