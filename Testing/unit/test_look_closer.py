"""The closer look: who is looked at again, what is taken, and that everything else stays as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.assembly.labels import PlaneVotes  # noqa: E402
from rau.events import StageEvent, ignore  # noqa: E402
from rau.look import closer  # noqa: E402
from rau.look.closer import look_again, references_of  # noqa: E402
from rau.look.rules import Looks, finished, rejected  # noqa: E402
from rau.look.visits import shown, visits, window_of, worthwhile  # noqa: E402
from rau.look.window import Window, bounding  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.pipeline import CLOSER, segment  # noqa: E402
from rau.preparation import prepare  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.sam.propagation import SliceMasks  # noqa: E402
from rau.sam.segmenter import Masks  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

STRUCTURES = (Structure(1, "large"), Structure(2, "small"))
PLAIN = SegmentSettings(device="cpu", adaptation="off", registration="off")


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(PLAIN.model_copy(update={"model": str(random_model)}))


def body(side=128, slices=1, seed=0, moved=0):
    """A large block and a small one that moves by a pixel a slice."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((slices, side, side), np.uint8)
    labels[:, 10 : side // 2, 10 : side - 20] = 1
    for t in range(slices):
        row, column = side - 40 + moved, side // 2 + t
        labels[t, row : row + 9, column : column + 12] = 2
    grid = Geometry(labels.shape, (6.0, 1.0, 1.0))
    image = rng.normal(80, 4, labels.shape) + 50 * labels
    known = slices > 1
    return Reference(Volume(image, grid, "MR", spacing_known=known), LabelMap(labels, grid, STRUCTURES))


@pytest.fixture
def scene(engine):
    """A case, and votes as if the whole slices had found what is there, small ones a little too large."""

    def make(slices=1, side=128):
        reference, target = body(side, slices), body(side, slices, seed=1, moved=5)
        case = prepare([reference], target.image, PLAIN, engine, ignore)
        labels = case.orientation.forth(target.labels.array)
        vote = PlaneVotes(case.values, labels.shape, 0)
        for t in range(slices):
            masks = np.stack([labels[t] == v for v in case.values]).astype(np.float32)
            both = np.ones(2)
            vote.add(SliceMasks(t, case.values, 0.9 * masks, both, 0.5 * both, 0, t, 1.0))
        return case, vote, labels

    return make


def answer(probability, iou=0.9, presence=3.0):
    """A network that sees the same in every crop. probability: (S', S')."""

    def see(segmenter, planes, some, windows, prompts):
        rows = len(some)
        logits = torch.logit(probability.clamp(1e-4, 1 - 1e-4)).expand(rows, 1, *probability.shape)
        return Masks(logits, torch.full((rows,), presence), torch.full((rows,), iou))

    return see


def middle(share=0.5, side=48):
    """Something in the middle of the crop."""
    out = torch.zeros(side, side)
    edge = int(side * (1 - share) / 2)
    out[edge : side - edge, edge : side - edge] = 1
    return out


def test_small_structures_are_visited_and_large_ones_are_not(scene):
    case, vote, labels = scene()
    found = list(visits(case.planes[0], vote, labels, None, Looks()))
    assert [one.value for one in found] == [2]
    assert found[0].found == bounding(labels[0] == 2, case.planes[0].images.frame)
    assert list(visits(case.planes[0], vote, labels, None, Looks(small=2.0)))[0].value == 1


def test_a_word_for_or_against_a_look_goes_before_the_size(scene):
    case, vote, labels = scene()
    asked = []

    def wanted(axis, value, t):
        asked.append((axis, value, t))
        return {1: 0.9, 2: 0.1}[value]

    looks = Looks(closer=1.0)
    assert [one.value for one in visits(case.planes[0], vote, labels, None, looks, wanted)] == [1]
    assert asked == [(0, 1, 0), (0, 2, 0)]
    silent = visits(case.planes[0], vote, labels, None, looks, lambda *_: None)
    assert [one.value for one in silent] == [2], "where nothing is said the size decides"


def test_what_was_not_found_is_sought_where_it_is_expected_and_else_left_out(scene):
    case, vote, labels = scene()
    nothing, hope = np.zeros_like(labels), {2: np.where(labels == 2, 200, 0).astype(np.uint8)}
    assert list(visits(case.planes[0], vote, nothing, None, Looks())) == []
    (one,) = visits(case.planes[0], vote, nothing, hope.get, Looks())
    assert one.value == 2 and not one.mask.any()
    assert one.found == bounding(labels[0] == 2, case.planes[0].images.frame)


def test_the_crops_follow_a_structure_through_the_volume(scene):
    case, vote, labels = scene(slices=6)
    found = sorted((one for one in visits(case.planes[0], vote, labels, None, Looks())), key=lambda one: one.index)
    assert [one.index for one in found] == list(range(6))
    columns = [one.found.column for one in found]
    assert np.all(np.diff(columns) > 0), "each crop lies where the structure is"
    assert max(one.found.side for one in found) <= 14.5 / 128, "and is as large as three slices need"


def test_a_picture_has_so_many_crops_and_no_more_the_smallest_structures_first(scene, engine):
    case, vote, labels = scene()
    plane = [(case.planes[0], vote)]
    (one,) = visits(case.planes[0], vote, labels, None, Looks())
    for most, expected in ((0, []), (1, [2])):
        looks = Looks(small=2.0, closer=1.0, picture=most)
        found = look_again(engine.segmenter, plane, labels, None, looks, lambda: None)
        assert [look.value for look in found] == expected
    both = look_again(engine.segmenter, plane, labels, None, Looks(small=2.0, closer=1.0), lambda: None)
    assert sorted(look.value for look in both) == [1, 2] and one.size < 0.2


def test_slices_of_few_pixels_are_not_looked_at(scene):
    case, vote, labels = scene(side=48)
    assert not worthwhile(case.planes[0].images, Looks())
    assert list(visits(case.planes[0], vote, labels, None, Looks())) == []
    assert worthwhile(case.planes[0].images, Looks(least=24))
    assert not worthwhile(case.planes[0].images, Looks(least=24, crops=0))


def test_target_and_reference_are_cropped_to_the_same_size_in_millimetres(scene):
    case, vote, labels = scene(slices=3)
    visit = next(visits(case.planes[0], vote, labels, None, Looks()))
    window = window_of(visit, case.planes[0].images, Looks(), 0)
    assert window.side == pytest.approx(max(2 * max(visit.found.side, visit.size), 32 / 128))
    images, masks = references_of([visit], [window], 64)
    assert images.shape == (1, 3, 64, 64)
    assert float(masks.mean()) == pytest.approx(9 * 12 / (window.side * 128) ** 2, rel=0.15)
    wide = dataclasses.replace(visit, ratio=0.5)  # a reference whose slices are half as wide
    assert float(references_of([wide], [window], 64)[1].mean()) == pytest.approx(float(masks.mean()) / 4, rel=0.3)


def test_the_reference_slice_is_the_nearest_that_shows_the_structure(scene, monkeypatch):
    case, _, _ = scene(slices=6)
    plane = case.planes[0]
    match, index = shown(plane, 2, 2)
    assert index == int(match.index[2])
    monkeypatch.setitem(match.reference.where, 2, np.array([0, 1]))
    assert shown(plane, 2, 2)[1] == 1 and shown(plane, 5, 2) is None


def test_what_a_look_finds_is_pasted_and_the_rest_of_the_slice_stays(scene, engine, monkeypatch):
    case, vote, labels = scene()
    before, large = vote.votes[2].copy(), vote.votes[1].copy()
    monkeypatch.setattr(closer, "seen", answer(middle()))
    found = look_again(engine.segmenter, [(case.planes[0], vote)], labels, None, Looks(), lambda: None)
    assert [(one.index, one.value, one.taken) for one in found] == [(0, 2, True)]
    (visit,) = visits(case.planes[0], vote, labels, None, Looks())
    window = window_of(visit, case.planes[0].images, Looks(), 0)
    box = (np.array(window.box) * 128).round().astype(int)
    inside = np.zeros((1, 128, 128), bool)
    inside[:, box[0] : box[2], box[1] : box[3]] = True
    changed = vote.votes[2] != before
    assert changed.any() and not (changed & ~inside).any() and np.array_equal(vote.votes[1], large)
    half = vote.votes[2][0] > 127
    assert bounding(half, case.planes[0].images.frame).side == pytest.approx(window.side / 2, abs=2 / 128)
    assert vote.iou[0, 1] == pytest.approx(0.9) and vote.iou[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("probability", "iou", "presence", "reason"),
    [
        (torch.zeros(48, 48), 0.9, 3.0, "nothing there"),
        (middle(), 0.9, -3.0, "nothing there"),
        (middle(), 0.3, 3.0, "less sure"),
        (middle(0.3).roll((-14, -14), (0, 1)), 0.9, 3.0, "out of the middle"),
        (middle(0.08), 0.9, 3.0, "elsewhere"),
    ],
)
def test_a_look_that_breaks_a_rule_changes_nothing(scene, engine, monkeypatch, probability, iou, presence, reason):
    case, vote, labels = scene()
    before, sure = vote.votes[2].copy(), vote.iou.copy()
    monkeypatch.setattr(closer, "seen", answer(probability, iou, presence))
    (one,) = look_again(engine.segmenter, [(case.planes[0], vote)], labels, None, Looks(), lambda: None)
    assert one.reason == reason and not one.taken
    assert np.array_equal(vote.votes[2], before) and np.array_equal(vote.iou, sure)


def test_a_second_look_is_at_what_the_first_one_found_and_knows_of_it(scene, engine, monkeypatch):
    case, vote, labels = scene()
    told = []
    plain = answer(middle(0.3).roll(4, 0))

    def see(segmenter, planes, some, windows, prompts):
        told.append((windows[0], prompts))
        return plain(segmenter, planes, some, windows, prompts)

    monkeypatch.setattr(closer, "seen", see)
    looks = Looks(crops=2, least=8, agreement=0.0)
    look_again(engine.segmenter, [(case.planes[0], vote)], labels, None, looks, lambda: None)
    assert len(told) == 2 and told[0][1] is None and told[1][1].shape == (1, 128, 128)
    assert told[1][0].row > told[0][0].row and told[1][0].side <= told[0][0].side


def test_the_last_look_is_the_one_that_finds_nothing_new():
    looks, window, before = Looks(), Window(0.5, 0.5, 0.4), Window(0.5, 0.5, 0.1)
    assert finished(looks, window, before, before)
    assert finished(looks, window, before, Window(0.5, 0.5, 0.25)), "it fills the crop"
    assert not finished(looks, window, before, Window(0.52, 0.5, 0.15))
    empty = np.zeros((4, 4), bool)
    assert rejected(looks, window, before, (empty, ~empty), (0.5, 0.5), 0.9) == "", "nothing was there to agree with"


def test_too_many_crops_are_none_at_all(scene, engine):
    case, vote, labels = scene(slices=6)
    before = vote.votes[2].copy()
    looks = Looks(most=5)
    assert look_again(engine.segmenter, [(case.planes[0], vote)], labels, None, looks, lambda: None) == []
    assert np.array_equal(vote.votes[2], before)


def test_crops_go_through_the_network_in_batches_and_can_be_cancelled(scene, engine, monkeypatch):
    case, vote, labels = scene(slices=6)
    monkeypatch.setattr(closer, "BATCH", 4)
    sizes, calls = [], []
    real = closer.seen
    monkeypatch.setattr(closer, "seen", lambda s, p, some, *more: sizes.append(len(some)) or real(s, p, some, *more))
    found = look_again(
        engine.segmenter, [(case.planes[0], vote)], labels, None, Looks(), lambda: calls.append(len(sizes))
    )
    assert sizes == [4, 2] and calls == [0, 1] and len(found) == 6
    assert all(isinstance(one.reason, str) for one in found)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_again(engine.segmenter, [(case.planes[0], vote)], labels, None, Looks(), stop)


def test_the_report_says_where_it_was_looked_closer_and_off_leaves_it_out(engine, monkeypatch):
    reference, target = body(), body(seed=1, moved=5)
    monkeypatch.setattr(closer, "take", lambda plane, vote, visit, *more: ("", visit.found))
    monkeypatch.setattr(
        "rau.assembly.labels.assemble", lambda votes, *more: np.where(reference.labels.array == 2, 2, 0).astype("u2")
    )
    stages = []
    for look, parts in (("auto", [CLOSER]), ("off", [])):
        events = []
        chosen = PLAIN.model_copy(update={"look": look})
        result = segment([reference], target.image, chosen, engine=engine, on_event=events.append)
        assert [part for part in result.slices[0].parts if part == CLOSER] == parts
        stages.append([one.stage for one in events if isinstance(one, StageEvent)])
    assert [one for one in stages[0] if one not in stages[1]] == ["look"]
