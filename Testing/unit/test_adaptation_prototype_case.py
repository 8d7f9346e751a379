"""A whole target by prototypes: where structures are expected without any training."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.adaptation.prototype_case import Prototypes, Way, contrast, expected_by_prototypes  # noqa: E402
from rau.events import ignore  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.preparation import prepare  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

STRUCTURES = (Structure(1, "bright"), Structure(3, "corner"))


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SegmentSettings(model=str(random_model), device="cpu"))


def body(slices=1, moved=0, seed=0, shown=(0, 99)):
    """A bright block, moved, and a corner; in slices `shown` alone."""
    rng, side = np.random.default_rng(seed), 64
    labels = np.zeros((slices, side, side), np.uint8)
    labels[shown[0] : shown[1], 12 + moved : 32 + moved, 20:44] = 1
    labels[shown[0] : shown[1], 50:, 50:] = 3
    grid = Geometry(labels.shape, (5.0, 1.0, 1.0))
    image = rng.normal(50, 2, labels.shape) + 120 * (labels == 1)
    return Reference(Volume(image, grid, "MR", spacing_known=slices > 1), LabelMap(labels, grid, STRUCTURES))


def case_of(engine, references, target, registration="off"):
    chosen = SegmentSettings(device="cpu", registration=registration, planes="acquisition")
    return prepare(references, target.image, chosen, engine, ignore)


WAYS = [
    Way("gaussian"),
    Way("none"),
    Way("gaussian", "points"),
    Way("none", "points", True),
    Way("gaussian", looks="filters"),
    Way("none", looks="filters"),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_probabilities_on_the_targets_grid(engine, way):
    case = case_of(engine, [body()], body(seed=1))
    found = expected_by_prototypes(engine.segmenter, case, way, lambda: None)
    assert set(found) == {1, 3}
    assert all(one.shape == (1, 64, 64) and one.dtype == np.uint8 for one in found.values())


def test_the_place_decides_where_two_look_alike_and_the_registered_one_follows_the_anatomy(engine):
    target = body(seed=1, moved=6)
    registered = case_of(engine, [body()], target, "auto")
    assert registered.has_prior(1)
    truth = target.labels.array == 1

    def inside(case, way):
        volume = expected_by_prototypes(engine.segmenter, case, way, lambda: None, [1])[1] / 255.0
        return float(volume[truth].mean() - volume[~truth].mean())

    by_place = inside(registered, Way("registered"))
    assert by_place > 0.5
    assert by_place > inside(registered, Way("gaussian")) > inside(registered, Way("none"))


def test_masks_laid_by_another_registration_take_the_place_of_the_cases_own(engine):
    target = body(seed=1, moved=14)
    case = case_of(engine, [body()], target)
    laid = {1: (target.labels.array == 1).astype(np.float32)}
    found = expected_by_prototypes(engine.segmenter, case, Way("registered"), lambda: None, [1], laid)[1] > 127
    own = expected_by_prototypes(engine.segmenter, case, Way("registered"), lambda: None, [1])[1] > 127

    def overlap(one):
        return (one & (laid[1] > 0)).sum() / (laid[1] > 0).sum()

    assert overlap(found) > 0.9 > overlap(own)


def test_filters_find_what_looks_alike_wherever_it_lies_and_need_no_network(engine, monkeypatch):
    monkeypatch.setattr(Prototypes, "_features", None)
    target = body(seed=1, moved=14)
    case = case_of(engine, [body()], target)
    found = expected_by_prototypes(engine.segmenter, case, Way("none", looks="filters"), lambda: None, [1])[1] > 127
    truth = target.labels.array == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_filters_of_few_slices_are_held_however_long_the_volume(engine, monkeypatch):
    monkeypatch.setattr("rau.adaptation.prototype_case.KEPT", 5)
    case = case_of(engine, [body(slices=20)], body(slices=20, seed=1))
    one = Prototypes(engine.segmenter, case, case.planes[0])
    kept = []
    for t in range(20):
        first = one.filters(None, t)
        assert one.filters(None, t) is first
        one.discriminant(one.near(t, 1), 1)
        kept.append(len(one._filtered))
    assert max(kept) == 5


def test_likeness_counts_more_where_registration_says_less(engine):
    target = body(seed=1, moved=6)
    case = case_of(engine, [body()], target, "auto")
    one = Prototypes(engine.segmenter, case, case.planes[0])
    assert one.trust() == pytest.approx(case.references[0].registered.after)
    assert Prototypes(engine.segmenter, case_of(engine, [body()], target), case.planes[0]).trust() == 0.0


def test_a_slice_far_from_where_the_reference_shows_a_structure_has_none(engine):
    reference = body(slices=12, shown=(0, 4))
    case = case_of(engine, [reference], body(slices=12, seed=1, shown=(0, 4)))
    found = expected_by_prototypes(engine.segmenter, case, Way("none"), lambda: None)[1]
    assert found[1].max() > 0 and not found[10:].any()


def test_several_references_make_one_prototype_and_are_encoded_once(engine, monkeypatch):
    case = case_of(engine, [body(slices=5), body(slices=5, seed=2, moved=2)], body(slices=5, seed=1))
    one = Prototypes(engine.segmenter, case, case.planes[0])
    shown = one.shown(2, 1)
    assert len(shown.masks) == len(shown.features) == 6, "three slices of each reference"
    calls = []
    encode = engine.segmenter.encode
    monkeypatch.setattr(engine.segmenter, "encode", lambda images: calls.append(1) or encode(images))
    one.shown(2, 3), one.shown(2, 1)
    assert not calls


def test_contrast_is_what_is_like_the_structure_and_unlike_the_rest():
    top = torch.zeros(1, 3, 4, 4)
    top[0, 0], top[0, 1, 1, 2], top[0, 2, 3, 3] = 0.2, 1.0, 1.0
    known, rest = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    found = contrast(known, rest, top)
    assert found.argmax() == 1 * 4 + 2 and found.argmin() == 3 * 4 + 3
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert contrast(known, None, top).argmax() == 1 * 4 + 2


def test_it_can_be_cancelled_between_slices(engine):
    case, calls = case_of(engine, [body(slices=4)], body(slices=4, seed=1)), []

    def go_on():
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        expected_by_prototypes(engine.segmenter, case, Way("none"), go_on)
    assert len(calls) == 3
