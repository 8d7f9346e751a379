"""Slices that the user has put right: they stay, they are remembered, and what does not fit is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from builders import signed_permutation  # noqa: E402
from rau.corrections import LEAST_REACH, Corrected, Corrections, canonical_corrections  # noqa: E402
from rau.errors import InputError  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.pipeline import segment  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.orientation import canonical  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

BALL, BOX = Structure(2, "ball"), Structure(5, "box")
SETTINGS = SegmentSettings(device="cpu", planes="acquisition", registration="off")


def case(seed: int = 0, shape=(9, 20, 16)) -> Reference:
    grid = Geometry(shape, (4.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    labels = np.zeros(shape, np.uint16)
    labels[2:7, 4:10, 3:9] = 2
    labels[3:8, 11:16, 8:14] = 5
    image = np.random.default_rng(seed).normal(100, 4, shape) + 30 * labels
    return Reference(Volume(image, grid, "MR"), LabelMap(labels, grid, (BALL, BOX)))


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SETTINGS.model_copy(update={"model": str(random_model)}))


def drawn(target: Reference, *slices: int) -> Corrections:
    """The user drew a cross of "box" in these slices, and nothing else."""
    array = np.zeros(target.labels.geometry.shape, np.uint16)
    for index in slices:
        array[index, 7:9, :] = 5
        array[index, :, 7:9] = 5
    return Corrections(LabelMap(array, target.labels.geometry, (BALL, BOX)), 0, slices)


def test_corrected_slices_come_back_as_the_user_left_them_and_the_others_are_segmented_with_them(engine):
    reference, target = case(), case(3)
    given_ = drawn(target, 4, 6)
    plain = segment([reference], target.image, SETTINGS, engine=engine)
    result = segment([reference], target.image, SETTINGS, engine=engine, corrections=given_)
    for index in (4, 6):
        assert np.array_equal(result.labels.array[index], given_.labels.array[index])
    assert not np.array_equal(plain.labels.array[5], result.labels.array[5]), "the slice between them took no notice"
    assert any("corrections" in one.parts for one in result.slices)
    assert not any("corrections" in one.parts for one in plain.slices)
    assert next(one for one in result.structures if one.structure.name == "box").present


def test_corrections_change_neither_target_nor_reference_and_the_same_call_gives_the_same_voxels(engine):
    reference, target = case(), case(3)
    given_ = drawn(target, 5)
    kept = [one.copy() for one in (target.image.array, reference.labels.array, given_.labels.array)]
    first, second = (
        segment([reference], target.image, SETTINGS, engine=engine, corrections=given_).labels.array for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert all(map(np.array_equal, kept, (target.image.array, reference.labels.array, given_.labels.array)))


@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
    st.sets(st.integers(0, 4), min_size=1),
    st.integers(0, 2),
)
def test_whatever_the_orientation_the_same_voxels_are_meant(order, signs, slices, axis):
    shape = (5, 6, 7)
    grid = Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), signed_permutation(tuple(order), signs))
    array = np.random.default_rng(0).choice(np.array([0, 9], np.uint16), shape)
    _, _, turned = canonical(array, grid)
    theirs = LabelMap(array, grid, (Structure(9, "Box"),))
    own = turned.axis_to_source(axis)
    found = canonical_corrections(Corrections(theirs, own, tuple(slices)), shape, turned, (BALL, BOX), axis)
    marked = np.zeros(shape, bool)
    np.moveaxis(marked, own, 0)[sorted(slices)] = True
    back = turned.back(found.labels)
    assert np.array_equal(back == BOX.value, (array == 9) & marked), "names decide, not values"
    laid = turned.back(found.laid_on(np.full(turned.forth(array).shape, 2, np.uint16)))
    assert np.array_equal(laid, np.where(marked, np.where(array == 9, 5, 0), 2))


def test_no_slice_a_slice_outside_another_plane_and_another_grid_are_told(engine):
    reference, target = case(), case(3)
    labels = drawn(target, 4).labels
    with pytest.raises(InputError, match="No slice was marked"):
        Corrections(labels, 0, ())
    with pytest.raises(InputError, match="no slice 9 along axis 0"):
        Corrections(labels, 0, (4, 9))
    with pytest.raises(InputError, match="across axis 1, the target is cut across axis 0"):
        segment([reference], target.image, SETTINGS, engine=engine, corrections=Corrections(labels, 1, (4,)))
    other = case(3, (9, 20, 18))
    with pytest.raises(InputError, match="another grid"):
        segment([reference], target.image, SETTINGS, engine=engine, corrections=drawn(other, 4))


def test_a_correction_of_a_structure_that_was_not_asked_for_is_left_out(engine):
    reference, target = case(), case(3)
    only = SETTINGS.model_copy(update={"structures": ("ball",)})
    result = segment([reference], target.image, only, engine=engine, corrections=drawn(target, 4))
    assert not (result.labels.array == BOX.value).any()
    assert not result.labels.array[4].any(), "and the slice shows nothing of what was asked for"


def test_corrections_are_frozen_values():
    given_ = drawn(case(), 4)
    assert replace(given_, slices=(1, 2)).slices == (1, 2) and given_.slices == (4,)


def test_the_vlm_is_asked_about_references_never_about_the_target_itself(engine):
    from rau.events import ignore
    from rau.preparation import prepare
    from rau.vlm.reason import keys_of

    reference, target = case(), case(3)
    plane = prepare([reference], target.image, SETTINGS, engine, ignore, drawn(target, 4, 5)).planes[0]
    assert plane.corrected in plane.matches
    asked = keys_of(plane)
    assert asked and all(match.number == 0 for _, match, _ in asked)


def beside(chosen, reach, longest=None, count=40):
    return Corrected(0, tuple(chosen), np.zeros((count, 2, 3), np.uint16)).beside(reach, longest or reach)[:, 0, 0]


@given(st.sets(st.integers(0, 39), min_size=1), st.integers(4, 12))
def test_an_expert_of_corrected_slices_counts_beside_them_and_not_in_them(slices, reach):
    chosen = sorted(slices)
    near = beside(chosen, reach)
    away = np.abs(np.arange(40)[:, None] - np.array(chosen)).min(1)
    assert near.shape == (40,) and (near[chosen] == 0).all() and near.max() <= 1
    assert (near[away > 2 * reach] < 0.01).all()
    outside = (np.arange(40) < chosen[0] - 1) | (np.arange(40) > chosen[-1] + 1)
    assert (near[outside & (away >= 6)] < 0.01).all(), "past the last corrected slice only just beside it"


def test_it_counts_more_between_two_that_are_close():
    near = beside([10, 18], 8)
    assert near[14] == pytest.approx(np.exp(-0.5 * (4 / 4.8) ** 2)) and near[22] < 0.03 and near[6] < 0.03
    assert beside([10, 22], 8)[16] < 0.01, "too far apart"
    assert beside([10, 18], 5)[14] < 0.03 < 0.3 < beside([10, 18], 5, 8)[14], "as the longest structure has it"


def test_a_corrected_slice_is_remembered_near_it_alone_and_not_in_itself(engine):
    from rau.events import ignore
    from rau.preparation import prepare
    from rau.sam.propagation import Recipe, chosen_memories

    reference, target = case(1, (30, 20, 16)), case(3, (30, 20, 16))
    array = np.zeros((30, 20, 16), np.uint16)
    array[4, 7:9] = BALL.value
    given_ = Corrections(LabelMap(array, target.labels.geometry, (BALL, BOX)), 0, (4,))
    plane = prepare([reference], target.image, SETTINGS, engine, ignore, given_).planes[0]
    place, reach = plane.corrected.annotated[0], plane.corrected.reach[BALL.value]
    assert reach == LEAST_REACH
    own = plane.corrected.reference.memory(engine.segmenter, place)[0]
    for away in (0, reach, reach + 1):
        t = place + away if place + away < 30 else place - away
        used = [memory for memory, _ in chosen_memories(engine.segmenter, plane.matches, t, BALL.value, Recipe())]
        assert any(one is own for one in used) == (0 < away <= reach)
