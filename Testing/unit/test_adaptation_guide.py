"""What the expert expects in the target: where pixels lie in the reference, and the target's own grid."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import SimpleITK as sitk  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.adaptation import guide as guides  # noqa: E402
from rau.adaptation.gate import Evidence  # noqa: E402
from rau.adaptation.guide import Guide, Places, build_guide, ordered, sheets_of, square_for, within_reach  # noqa: E402
from rau.errors import Cancelled  # noqa: E402
from rau.preparation import Case, CasePlane, Ready  # noqa: E402
from rau.references.encoded import EncodedReference  # noqa: E402
from rau.references.registration import Registered, as_image, register  # noqa: E402
from rau.sam.propagation import Match  # noqa: E402
from rau.volume.orientation import orientation_of  # noqa: E402
from rau.volume.planes import Planes  # noqa: E402
from rau.volume.volume import Geometry, Structure  # noqa: E402

SPACING = (1.0, 1.0, 1.0)


def nothing() -> None:
    """Go on."""


def ball(shape, centre, radius, spacing=SPACING, seed=0, level=120):
    """(image uint8, labels uint16) of a bright ball (value 3); centre: voxels, radius: mm. One slice: a disc."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    inside = (((index - centre) * spacing) ** 2).sum(-1) < radius**2
    image = np.random.default_rng(seed).normal(60, 5, shape) + level * inside
    return np.clip(image, 0, 255).astype(np.uint8), inside.astype(np.uint16) * 3


def match_of(image, labels, spacing, axis, values, index, number=0) -> Match:
    planes = Planes(image, axis, spacing), Planes(labels, axis, spacing)
    encoded = EncodedReference(*planes, values, np.zeros((len(planes[0]), 1), np.float32))
    return Match(encoded, number, np.asarray(index), np.ones(len(index)))


def middles(here: int, there: int) -> np.ndarray:
    """The slices of a reference of `there` slices that lie where those of a target of `here` do, by their share."""
    return np.round((np.arange(here) + 0.5) / here * there - 0.5).astype(int)


def case_of(references, target, spacing=SPACING, axis=0, values=(3,)) -> Case:
    """references: (image, labels, spacing, registered or None)."""
    images, matches, made = Planes(target, axis, spacing), [], []
    for number, (image, labels, theirs, registered) in enumerate(references):
        index = middles(len(images), image.shape[axis])
        matches.append(match_of(image, labels, theirs, axis, values, index, number))
        grid = Geometry(image.shape[:3], theirs)
        made.append(Ready(image, labels, grid, orientation_of(grid), registered))
    structures = tuple(Structure(v, f"structure {v}") for v in values)
    orientation = orientation_of(Geometry(target.shape[:3], spacing))
    plane = CasePlane(images, tuple(matches), tuple(matches))
    return Case(structures, target, orientation, (plane,), (), tuple(made), False)


def dice(found, truth) -> float:
    return 2 * float((found & truth).sum()) / max(1.0, float(found.sum() + truth.sum()))


def affine(seed: int, size: int) -> sitk.AffineTransform:
    """A random affine transform of `size` dimensions, near the identity."""
    rng = np.random.default_rng(seed)
    found = sitk.AffineTransform(size)
    found.SetMatrix((np.eye(size) + rng.normal(0, 0.08, (size, size))).ravel().tolist())
    found.SetTranslation(rng.normal(0, 3, size).tolist())
    return found


def at(places: Places, planes: Planes, voxel) -> np.ndarray:
    """(3,) place of a target voxel (canonical index), read from the square between its pixels."""
    others = [i for i in range(3) if i != planes.axis]
    size = [planes.array.shape[i] for i in others]
    g = [
        (voxel[i] - (n - 1) / 2) * planes.spacing[i] / (places.square.target / 2)
        for i, n in zip(others, size, strict=True)
    ]
    grid = torch.tensor(g[::-1], dtype=torch.float32).view(1, 1, 1, 2)
    found = F.grid_sample(places.of(voxel[planes.axis]).permute(2, 0, 1)[None], grid, align_corners=False)
    return found[0, :, 0, 0].numpy()


def expected_place(transform, voxel, spacing, shape, theirs, side, axis) -> np.ndarray:
    """(3,) the same by SimpleITK: halves of the reference's square, in the plane's order."""
    used = [i for i in range(3) if transform.GetDimension() == 3 or i]
    point = [voxel[i] * spacing[i] for i in used]
    moved = transform.TransformPoint([float(p) for p in point[::-1]])[::-1]
    mm = np.zeros(3)
    for i, value in zip(used, moved, strict=True):
        mm[i] = value - (shape[i] - 1) / 2 * theirs[i]
    return ordered(mm, axis) / (side / 2)


def by_hand(transform, target, spacing, labels, theirs) -> Registered:
    masks = as_image(labels, theirs, sitk.sitkUInt16)
    nothing = np.zeros(target.shape, np.uint16)
    return Registered(transform, 0.0, 1.0, target, nothing, masks, as_image(target, spacing), transform)


STEP = st.sampled_from([0.5, 1.0, 1.7, 3.0])


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2]), st.booleans(), STEP, STEP)
@settings(max_examples=30, deadline=None)
def test_places_are_where_the_registration_leads(seed, axis, flat, one, other):
    rng = np.random.default_rng(seed)
    spacing, theirs = ((1.0, 0.8, one), (1.0, other, 0.9)) if flat else ((1.4, 0.8, one), (other, 1.0, 0.9))
    axis = 0 if flat else axis
    here, there = ((1 if flat else int(rng.integers(8, 20)), *rng.integers(8, 30, 2).tolist()) for _ in range(2))
    target, image, labels = np.zeros(here, np.uint8), np.zeros(there, np.uint8), np.ones(there, np.uint16)
    transform = affine(seed, 2 if flat else 3)
    match = match_of(image, labels, theirs, axis, (1,), np.zeros(here[axis], int))
    planes = Planes(target, axis, spacing)
    square = square_for(CasePlane(planes, (match,), (match,)), match)
    places = Places(planes, match, by_hand(transform, target, spacing, labels, theirs), square)
    for _ in range(5):
        voxel = [0 if n == 1 else int(rng.integers(1, n - 1)) for n in here]
        error = at(places, planes, voxel) - expected_place(
            transform, voxel, spacing, there, theirs, square.reference, axis
        )
        voxels = error * (square.reference / 2) / ordered(np.array(theirs), axis)
        assert np.abs(voxels).max() < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_deformable_registration_is_followed_through_long_volumes_too(axis):
    here, there = (18, 80, 30), (16, 70, 34)
    target, _ = ball(here, (9, 44, 14), 7, seed=1)
    image, labels = ball(there, (8, 33, 18), 8)
    found = register(target, SPACING, image, labels, SPACING)
    match = match_of(image, labels, SPACING, axis, (3,), np.zeros(here[axis], int))
    planes = Planes(target, axis, SPACING)
    square = square_for(CasePlane(planes, (match,), (match,)), match)
    places = Places(planes, match, found, square)
    rng = np.random.default_rng(0)
    for _ in range(30):
        voxel = [int(rng.integers(1, n - 1)) for n in here]
        wanted = expected_place(found.transform, voxel, SPACING, there, SPACING, square.reference, axis)
        assert np.abs(at(places, planes, voxel) - wanted).max() * square.reference / 2 < 0.5


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2]))
@settings(max_examples=15, deadline=None)
def test_without_a_registration_places_are_those_of_the_identity(seed, axis):
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(rng.integers(8, 24, 3).tolist()), tuple(rng.uniform(0.5, 3, 3).tolist())
    array, labels = np.zeros(shape, np.uint8), np.ones(shape, np.uint16)
    match = match_of(array, labels, spacing, axis, (1,), np.arange(shape[axis]))
    planes = Planes(array, axis, spacing)
    square = square_for(CasePlane(planes, (match,), (match,)), match)
    without = Places(planes, match, None, square)
    identity = Places(planes, match, by_hand(sitk.AffineTransform(3), array, spacing, labels, spacing), square)
    for _ in range(5):
        voxel = [int(rng.integers(1, n - 1)) for n in shape]
        error = (at(without, planes, voxel) - at(identity, planes, voxel)) * square.reference / 2
        assert np.abs(error / ordered(np.array(spacing), axis)).max() < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_annotated_slices_lie_where_places_say(axis):
    spacing = (2.0, 1.0, 1.0)
    image, labels = ball((20, 30, 26), (7, 18, 9), 6, spacing)
    match = match_of(image, labels, spacing, axis, (3,), np.arange(image.shape[axis]))
    plane = CasePlane(Planes(image, axis, spacing), (match,), (match,))
    square = square_for(plane, match)
    sheets = sheets_of(match, (3,), square)
    centre = sheets.places[sheets.labels == 1].mean(0).numpy() * square.reference / 2
    wanted = (np.argwhere(labels).mean(0) - (np.array(labels.shape) - 1) / 2) * spacing
    assert np.abs(centre - ordered(wanted, axis)).max() < 0.5
    assert len(sheets) <= guides.SHEETS and not bool(sheets.labels[0].any()) and not bool(sheets.labels[-1].any())


def test_more_structures_than_a_byte_counts_keep_their_numbers():
    labels = np.arange(1, 321, dtype=np.uint16).reshape(1, 16, 20) + 1000
    match = match_of(np.zeros(labels.shape, np.uint8), labels, SPACING, 0, tuple(range(1001, 1321)), [0])
    plane = CasePlane(Planes(labels, 0, SPACING), (match,), (match,))
    found = sheets_of(match, match.reference.values, square_for(plane, match)).labels
    assert int(found.max()) == 320 and len(found.unique()) == 321


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ball_is_expected_where_it_moved_to_across_any_axis(axis):
    image, labels = ball((24, 32, 28), (12, 16, 14), 7)
    target, truth = ball((24, 32, 28), (13, 18, 12), 6, seed=1)
    found = build_guide(case_of([(image, labels, SPACING, None)], target, axis=axis), 0, nothing)
    for volume in (found.expected[3], found.candidate(3)):
        assert volume.shape == target.shape and volume.dtype == np.uint8
        assert dice(volume > 127, truth > 0) > 0.8


def test_reference_and_target_may_differ_in_shape_spacing_and_field_of_view():
    theirs, spacing = (2.0, 1.0, 1.0), (3.0, 1.5, 0.8)
    image, labels = ball((20, 40, 36), (10, 20, 18), 9, theirs)
    target, truth = ball((14, 24, 50), (7, 12, 26), 9, spacing, seed=1)
    found = build_guide(case_of([(image, labels, theirs, None)], target, spacing), 0, nothing)
    assert found.expected[3].shape == target.shape
    assert dice(found.expected[3] > 127, truth > 0) > 0.75


def test_a_structure_that_touches_the_border_is_expected_there():
    image, labels = ball((16, 30, 30), (0, 2, 28), 9)
    target, truth = ball((16, 30, 30), (0, 3, 27), 9, seed=1)
    found = build_guide(case_of([(image, labels, SPACING, None)], target), 0, nothing).expected[3] > 127
    assert dice(found, truth > 0) > 0.75 and found[0, 0, -1]


def test_pictures_of_any_size_are_compared_side_for_side_and_with_their_colours():
    image, labels = ball((1, 60, 60), (0, 30, 24), 12)
    target, truth = ball((1, 90, 120), (0, 45, 52), 20, seed=1)
    coloured = [np.stack([one, one // 2, 255 - one], -1) for one in (image, target)]
    for theirs, here in ((image, target), tuple(coloured), (coloured[0], target)):
        found = build_guide(case_of([(theirs, labels, SPACING, None)], here), 0, nothing)
        assert found.expected[3].shape == (1, 90, 120)
        if theirs.ndim == here.ndim:
            assert dice(found.expected[3] > 127, truth > 0) > 0.75


def test_a_registered_reference_is_looked_up_where_the_registration_says():
    image, labels = ball((16, 36, 36), (8, 10, 26), 6)
    target, truth = ball((16, 36, 36), (8, 25, 11), 6, seed=1)
    image[:, 24:30, 4:10] = 180
    target[:, 4:10, 24:30] = 180
    shift = sitk.AffineTransform(3)
    shift.SetTranslation([15.0, -15.0, 0.0])
    laid = by_hand(shift, target, SPACING, labels, SPACING)
    found = build_guide(case_of([(image, labels, SPACING, laid)], target), 0, nothing)
    assert found.has_prior(3) and found.evidence[3].correlation == 1
    assert dice(found.expected[3] > 127, truth > 0) > 0.75


def test_several_references_are_averaged():
    pairs = [ball((10, 24, 24), (5, 12, c), 5, seed=c) for c in (10, 14)]
    target, _ = ball((10, 24, 24), (5, 12, 12), 5, seed=1)
    references = [(*pair, SPACING, None) for pair in pairs]
    both = build_guide(case_of(references, target), 4, nothing)
    alone = [build_guide(case_of([one], target), 4, nothing) for one in references]
    mean = np.mean([one.expected[3].astype(float) for one in alone], 0)
    assert np.abs(both.expected[3] - mean).max() <= 0.5
    assert both.evidence[3].trust == pytest.approx(np.mean([one.evidence[3].trust for one in alone]))


def test_a_reference_that_lacks_a_structure_says_nothing_of_it():
    image, labels = ball((10, 24, 24), (5, 12, 12), 5)
    other, none = image, np.where(labels == 3, 8, 0).astype(np.uint16)
    case = case_of([(image, labels, SPACING, None), (other, none, SPACING, None)], image, values=(3, 8, 9))
    found = build_guide(case, 0, nothing)
    assert set(found.expected) == set(found.evidence) == {3, 8}
    assert found.candidate(9) is None and found.weights(9, 0.5) is None


def test_the_same_seed_gives_the_same_expectation_and_another_seed_another():
    image, labels = ball((8, 24, 24), (4, 12, 12), 5)
    target, _ = ball((8, 24, 24), (4, 13, 11), 5, seed=1)
    case = case_of([(image, labels, SPACING, None)], target)
    one, two, other = (build_guide(case, seed, nothing) for seed in (1, 1, 2))
    assert np.array_equal(one.expected[3], two.expected[3]) and one.evidence == two.evidence
    assert not np.array_equal(one.expected[3], other.expected[3])


def test_cancel_stops_between_slices():
    image, labels = ball((8, 24, 24), (4, 12, 12), 5)
    asked = []

    def go_on() -> None:
        asked.append(1)
        if len(asked) > 4:
            raise Cancelled()

    with pytest.raises(Cancelled):
        build_guide(case_of([(image, labels, SPACING, None)], image), 0, go_on)
    assert len(asked) == 5


def test_evidence_is_between_nothing_and_all():
    image, labels = ball((8, 24, 24), (4, 12, 12), 5)
    found = build_guide(case_of([(image, labels, SPACING, None)], image), 0, nothing).evidence[3]
    assert all(0 <= number <= 1 for number in found.numbers()) and found.trust > 0.7 and found.correlation == 0


def test_the_candidate_lies_between_expert_and_registration():
    expected = np.array([[[0, 100, 255, 255]]], np.uint8)
    prior = np.array([[[0.0, 1.0, 0.0, 1.0]]], np.float32)
    found = Guide({2: expected}, {2: Evidence(0.8, 0.6, 0.1)}, lambda value: prior, lambda value: True)
    candidate = found.candidate(2)
    assert candidate.dtype == np.uint8 and candidate is found.candidate(2), "made once"
    assert candidate[0, 0, 0] == 0 and candidate[0, 0, 3] == 255
    assert 100 < candidate[0, 0, 1] < 255 and 0 < candidate[0, 0, 2] < 255
    alone = Guide({2: expected}, {2: Evidence(0.8, 0.6, 0.1)}, lambda value: None, lambda value: False)
    assert np.array_equal(alone.candidate(2), expected) and alone.weights(2, 0.7).prior == 0


def test_volumes_too_large_for_another_set_of_probabilities_have_no_experts(monkeypatch):
    image, labels = ball((8, 24, 24), (4, 12, 12), 5)
    case = case_of([(image, labels, SPACING, None)], image)
    assert within_reach(case)
    monkeypatch.setattr("rau.preparation.MOST_VOTES", image.size)
    assert not within_reach(case)
