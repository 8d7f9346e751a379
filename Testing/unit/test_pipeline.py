"""The whole way of the data on a small random model: geometry, events, cancel, bad pairs. No accuracy is asked here."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.adaptation.guide import build_guide  # noqa: E402
from rau.commands.progress import STAGES  # noqa: E402
from rau.errors import Cancelled, InputError  # noqa: E402
from rau.events import SliceEvent, StageEvent, WarningEvent, ignore  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.pipeline import segment  # noqa: E402
from rau.preparation import axes_for, prepare, step_of  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

STRUCTURES = (Structure(2, "ball", (1.0, 0.0, 0.0), "term"), Structure(5, "box"))


@pytest.fixture(scope="module")
def engine(random_model):
    return load_engine(SegmentSettings(model=str(random_model), device="cpu"))


def phantom(shape=(10, 24, 20), spacing=(4.0, 1.0, 1.0), seed=0, direction=None, modality="MR"):
    rng = np.random.default_rng(seed)
    grid = Geometry(shape, spacing, (5.0, -7.0, 11.0), np.eye(3)[:, ::-1] if direction is None else direction)
    labels = np.zeros(shape, np.uint8)
    s, r, c = (n // 4 for n in shape)
    labels[s : 3 * s + 1, r : 2 * r, c : 2 * c] = 2
    labels[s : 2 * s + 1, 2 * r : 3 * r, 2 * c : 3 * c] = 5
    image = rng.normal(100, 5, shape) + 40 * labels
    return Reference(Volume(image, grid, modality), LabelMap(labels, grid, STRUCTURES))


def settings(**more):
    return SegmentSettings(device="cpu", **more)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_the_label_map_is_on_the_target_grid_whatever_its_orientation(engine, order, flip):
    reference = phantom()
    direction = (np.eye(3)[:, ::-1] * [flip, 1, -flip])[:, list(order)]
    shape, spacing = (10, 24, 20), (4.0, 1.0, 1.0)
    shape, spacing = tuple(shape[i] for i in order), tuple(spacing[i] for i in order)
    target = Volume(
        np.random.default_rng(1).normal(size=shape), Geometry(shape, spacing, (0.0, 0.0, 0.0), direction), "MR"
    )
    before = target.array.copy()
    result = segment([reference], target, settings(planes="acquisition"), engine=engine)
    assert result.labels.array.shape == shape and result.labels.geometry is target.geometry
    assert np.array_equal(target.array, before), "the target was altered"
    assert {s.axis for s in result.slices} == {order.index(0)}
    assert sorted(s.index for s in result.slices) == list(range(10))


def test_the_same_anatomy_in_two_orientations_gets_the_same_labels(engine):
    reference = phantom()
    array = np.random.default_rng(2).normal(size=(10, 24, 20))
    straight = Volume(array, reference.image.geometry, "MR")
    turned_array = np.ascontiguousarray(array[::-1, :, ::-1])
    flipped = reference.image.geometry.direction * [-1, 1, -1]
    corner = reference.image.geometry.to_world(np.array([[9, 0, 19]]))[0]
    turned = Volume(turned_array, Geometry(array.shape, (4.0, 1.0, 1.0), tuple(corner), flipped), "MR")
    one = segment([reference], straight, settings(), engine=engine).labels.array
    other = segment([reference], turned, settings(), engine=engine).labels.array
    assert one.any()
    assert np.array_equal(one, other[::-1, :, ::-1])


def test_every_slice_is_told_with_its_preview_in_the_targets_own_orientation(engine):
    events = []
    shape = (12, 14, 16)
    direction = np.eye(3)[:, ::-1][:, [1, 0, 2]] * [1, -1, 1]
    target = Volume(
        np.random.default_rng(3).normal(size=shape), Geometry(shape, (1.0, 3.0, 1.0), direction=direction), "MR"
    )
    segment([phantom()], target, settings(planes="acquisition"), engine=engine, on_event=events.append)
    slices = [e for e in events if isinstance(e, SliceEvent)]
    assert [e.done for e in slices] == list(range(1, 15)) and {e.total for e in slices} == {14}
    for event in slices:
        assert event.axis == 1 and event.labels.shape == (12, 16)
    stages = [e.stage for e in events if isinstance(e, StageEvent)]
    assert stages == ["read", "retrieve", "register", "adapt", "segment", "assemble", "judge"]
    assert set(stages) <= set(STAGES), "the terminal has words for each"


def test_a_second_run_with_the_same_reference_encodes_nothing_again(engine, monkeypatch):
    reference, target = phantom(), phantom(seed=9).image
    first = segment([reference], target, settings(), engine=engine)
    calls = []
    encode = engine.segmenter.encode
    monkeypatch.setattr(engine.segmenter, "encode", lambda images: calls.append(1) or encode(images))
    second = segment([reference], target, settings(), engine=engine)
    assert np.array_equal(first.labels.array, second.labels.array), "cached and fresh differ"
    asked = sum(bool(s.parts) for s in second.slices)
    assert len(calls) == asked, "only target slices may be encoded in a second run"


def test_cancel_stops_between_slices(engine):
    seen = []
    with pytest.raises(Cancelled):
        segment(
            [phantom()],
            phantom(seed=4).image,
            settings(),
            engine=engine,
            on_event=seen.append,
            should_stop=lambda: sum(isinstance(e, SliceEvent) for e in seen) >= 3,
        )
    assert sum(isinstance(e, SliceEvent) for e in seen) == 3


def test_a_single_slice_works_and_mixed_dimensions_are_refused(engine):
    flat = phantom(shape=(1, 40, 36), spacing=(1.0, 1.0, 1.0))
    result = segment(
        [flat], phantom(shape=(1, 30, 50), spacing=(1.0, 1.0, 1.0), seed=5).image, settings(), engine=engine
    )
    assert result.labels.array.shape == (1, 30, 50)
    with pytest.raises(InputError, match="target is 3-D and the reference is 2-D"):
        segment([flat], phantom().image, settings(), engine=engine)
    with pytest.raises(InputError, match="target is 2-D and the reference is 3-D"):
        segment([phantom()], flat.image, settings(), engine=engine)


def test_colour_pictures_and_a_warning_for_mixed_ones(engine):
    grid = Geometry((1, 32, 32))
    rng = np.random.default_rng(0)
    picture = Volume(rng.integers(0, 255, (1, 32, 32, 3), dtype=np.uint8), grid, "OT", spacing_known=False)
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[0, 8:20, 8:20] = 2
    reference = Reference(picture, LabelMap(labels, grid, STRUCTURES[:1]))
    assert not segment([reference], picture, settings(), engine=engine).warnings
    grey = Volume(rng.normal(size=(1, 32, 32)), grid, spacing_known=False)
    assert any("colour" in w for w in segment([reference], grey, settings(), engine=engine).warnings)


def test_another_modality_is_said_aloud(engine):
    events = []
    result = segment([phantom(modality="CT")], phantom(seed=1).image, settings(), engine=engine, on_event=events.append)
    assert any("reference is CT and the target is MR" in w for w in result.warnings)
    assert {e.message for e in events if isinstance(e, WarningEvent)} == set(result.warnings)


def test_several_references_are_numbered_together(engine):
    other = phantom(seed=3)
    renamed = (Structure(2, "Box"), Structure(5, "ring"))
    second = Reference(other.image, LabelMap(other.labels.array, other.labels.geometry, renamed))
    result = segment([phantom(), second], phantom(seed=8).image, settings(), engine=engine)
    assert {s.structure.name: s.structure.value for s in result.structures} == {"ball": 2, "box": 5, "ring": 6}
    assert set(np.unique(result.labels.array)) <= {0, 2, 5, 6}


def test_a_reference_that_lacks_the_structure_asked_for_is_refused(engine):
    reference = phantom()
    empty = Reference(
        reference.image, LabelMap(np.zeros_like(reference.labels.array), reference.labels.geometry, STRUCTURES)
    )
    with pytest.raises(InputError, match="shows none of the structures"):
        segment([empty], phantom(seed=1).image, settings(), engine=engine)
    with pytest.raises(InputError, match="No reference"):
        segment([], phantom().image, settings(), engine=engine)


def test_names_colours_and_codes_are_the_references(engine):
    result = segment([phantom()], phantom(seed=6).image, settings(), engine=engine)
    assert result.labels.structures == STRUCTURES
    assert result.report()["structures"][0]["terminology"] == "term"


def part(result, name):
    """In how many slices `name` took part."""
    return sum(name in one.parts for one in result.slices)


def test_adaptation_is_named_in_the_report_and_off_asks_the_network_without_prompts(engine, monkeypatch):
    reference, target = phantom(), phantom(seed=3).image
    asked, decode = [], engine.segmenter.decode

    def watched(features, references, neighbours=(), prompts=None, **rest):
        asked.append(prompts)
        return decode(features, references, neighbours, prompts, **rest)

    monkeypatch.setattr(engine.segmenter, "decode", watched)
    for adaptation in ("auto", "off"):
        asked.clear()
        result = segment([reference], target, settings(adaptation=adaptation), engine=engine)
        used = sum(bool(one.parts) for one in result.slices)
        assert used == len(asked) and part(result, "adaptation") == (used if adaptation == "auto" else 0)
        assert all((prompts is not None) == (adaptation == "auto") for prompts in asked)
        assert result.provenance["settings"]["adaptation"] == adaptation


def test_without_adaptation_nothing_of_it_is_run_and_the_labels_are_the_networks(engine, monkeypatch):
    reference, target = phantom(), phantom(seed=3).image
    chosen = settings(adaptation="off", planes="acquisition")
    events = []
    off = segment([reference], target, chosen, engine=engine, on_event=events.append)
    assert "adapt" not in [e.stage for e in events if isinstance(e, StageEvent)]
    monkeypatch.setattr("rau.pipeline.guided", lambda *rest: None)
    on = segment([reference], target, settings(planes="acquisition"), engine=engine)
    assert np.array_equal(off.labels.array, on.labels.array)


def test_a_volume_with_no_room_for_experts_is_segmented_without_them(engine, monkeypatch):
    monkeypatch.setattr("rau.preparation.MOST_VOTES", 1000)
    result = segment([phantom()], phantom(seed=3).image, settings(), engine=engine)
    assert part(result, "adaptation") == 0 and part(result, "memory") > 0


def test_the_same_seed_gives_the_same_labels_and_the_model_is_not_changed(engine):
    before = {name: value.clone() for name, value in engine.segmenter.model.state_dict().items()}
    reference, target = phantom(), phantom(seed=3).image
    one, two = (segment([reference], target, settings(seed=5), engine=engine) for _ in range(2))
    assert np.array_equal(one.labels.array, two.labels.array)
    assert [s.score for s in one.structures] == [s.score for s in two.structures]
    after = engine.segmenter.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_seed_larger_than_any_generator_takes_is_refused():
    assert settings(seed=2**31 - 1).seed == 2**31 - 1
    with pytest.raises(ValueError, match="less than or equal"):
        settings(seed=2**31)


def test_cancel_is_heeded_while_experts_look(engine):
    stages = []

    def note(event):
        if isinstance(event, StageEvent):
            stages.append(event.stage)

    with pytest.raises(Cancelled):
        segment(
            [phantom()],
            phantom(seed=4).image,
            settings(),
            engine=engine,
            on_event=note,
            should_stop=lambda: stages[-1] == "adapt",
        )
    assert stages[-1] == "adapt"


def test_experts_expect_the_same_of_a_target_however_its_grid_is_turned(engine):
    reference, target = phantom(), phantom(seed=3).image
    array = np.ascontiguousarray(target.array[::-1, :, ::-1].transpose(1, 0, 2))
    turn = np.array([[0.995, -0.0998, 0.0], [0.0998, 0.995, 0.0], [0.0, 0.0, 1.0]])
    direction = turn @ (np.asarray(target.geometry.direction) * [-1, 1, -1])[:, [1, 0, 2]]
    spacing = tuple(target.geometry.spacing[i] for i in (1, 0, 2))
    oblique = Volume(array, Geometry(array.shape, spacing, (3.0, 2.0, 1.0), direction), "MR")
    found = []
    for one in (target, oblique):
        case = prepare([reference], one, settings(registration="off"), engine, ignore)
        guide = build_guide(case, 0, lambda: None)
        assert set(guide.expected) == {2, 5}
        found.append({v: (volume, case.orientation.back(volume)) for v, volume in guide.expected.items()})
    for value in (2, 5):
        (straight, _), (turned, back) = found[0][value], found[1][value]
        assert straight.dtype == np.uint8 and np.array_equal(straight, turned), "canonical"
        assert back.shape == array.shape
        assert np.array_equal(straight, back.transpose(1, 0, 2)[::-1, :, ::-1])


def test_pictures_are_registered_and_adapted_too(engine):
    reference, other = (phantom(shape=(1, 40, 36), spacing=(1.0, 1.0, 1.0), seed=s) for s in (0, 1))
    moved = Volume(np.roll(other.image.array, (3, -2), (1, 2)), other.image.geometry, "MR")
    result = segment([reference], moved, settings(), engine=engine)
    assert {"memory", "registration", "adaptation"} <= set(result.slices[0].parts)


def test_planes_follow_the_voxels():
    cube, thick = Geometry((30, 40, 35)), Geometry((20, 200, 200), (5.0, 1.0, 1.0))
    assert axes_for(settings(), [cube, cube], 2) == [0, 1, 2]
    assert axes_for(settings(), [cube, thick], 2) == [0]
    assert axes_for(settings(planes="all"), [thick, thick], 2) == [0, 1, 2]
    assert axes_for(settings(), [Geometry((200, 20, 200), (1.0, 5.0, 1.0))] * 2, 2) == [1]
    assert axes_for(settings(), [Geometry((216, 256, 10))] * 2, 3) == [2], (
        "no spacing known: the short axis is the slices'"
    )
    assert axes_for(settings(planes="all"), [Geometry((1, 30, 30))] * 2, 2) == [0]


def test_of_cubes_every_second_slice_of_the_other_planes_is_segmented_and_all_where_all_are_asked_for(engine):
    reference = phantom((26, 25, 24), (1.0, 1.0, 1.0))
    other = phantom((26, 25, 24), (1.0, 1.0, 1.0), seed=1).image
    for planes, share in (("auto", 2), ("all", 1)):
        result = segment([reference], other, settings(planes=planes, quality="off"), engine=engine)
        done = [sum(one.axis == axis for one in result.slices) for axis in range(3)]
        assert done[0] == 26 and done[1] in (25 // share, (25 + share - 1) // share) and done[2] == 24 // share
    few = [step_of(settings(), number, count) for number in (0, 1) for count in (12, 100)]
    assert few == [1, 1, 1, 2], "all of the acquisition plane, and of few slices"


def test_the_result_says_how_far_it_can_be_trusted_unless_nobody_asks(engine):
    reference, target = phantom(), phantom(seed=3).image
    judged = segment([reference], target, settings(planes="acquisition"), engine=engine)
    plain = segment([reference], target, settings(planes="acquisition", quality="off"), engine=engine)
    assert plain.quality == plain.report()["quality"] == {}
    told = judged.report()["quality"]
    assert [one["name"] for one in told["structures"]] == ["ball", "box"]
    assert told["light"] in ("green", "amber", "red", "absent")
    assert np.array_equal(judged.labels.array, plain.labels.array), "a judgement changes nothing"


def test_fast_reads_memory_in_half_precision_and_exact_again_what_sam2_reads(engine, monkeypatch):
    from rau.sam import reading

    monkeypatch.setattr(reading, "quick_halves", lambda kind: True)
    reference, target = phantom(), phantom(seed=3).image
    kept = {"planes": "acquisition", "quality": "off", "adaptation": "off", "registration": "off"}
    exact, fast, again = (
        segment([reference], target, settings(speed=speed, **kept), engine=engine)
        for speed in ("exact", "fast", "exact")
    )
    assert np.array_equal(exact.labels.array, again.labels.array)
    assert fast.labels.array.shape == exact.labels.array.shape
    assert [one.score for one in fast.structures] != [one.score for one in exact.structures]


def test_short_memory_is_told_and_the_labels_are_the_same(engine, monkeypatch):
    reference, target = phantom(), phantom(seed=3).image
    chosen = settings(planes="acquisition", quality="off")
    whole = segment([reference], target, chosen, engine=engine)
    together = engine.segmenter._together

    def short(features, past, guidance):
        if len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return together(features, past, guidance)

    monkeypatch.setattr(engine.segmenter, "_together", short)
    monkeypatch.setattr(engine.segmenter, "rows_at_once", 0)
    result = segment([reference], target, chosen, engine=engine)
    assert np.array_equal(result.labels.array, whole.labels.array)
    assert any("1 structures at a time" in one for one in result.warnings)


def test_where_a_gpu_has_not_memory_enough_the_cpu_computes_and_says_so(engine, monkeypatch):
    reference, target = phantom(), phantom(seed=3).image
    chosen = settings(planes="acquisition", quality="off", model=str(engine.folder.path))
    expected = segment([reference], target, chosen, engine=engine)
    small = load_engine(chosen)
    small.device = "cuda"  # as it would say of itself

    def short(features, past, guidance):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small.segmenter, "_together", short)
    events = []
    result = segment([reference], target, chosen, engine=small, on_event=events.append)
    assert np.array_equal(result.labels.array, expected.labels.array)
    assert "the CPU computes instead" in result.warnings[0]
    assert any(isinstance(one, WarningEvent) and "CPU" in one.message for one in events)
    small.device = "cpu"
    with pytest.raises(torch.OutOfMemoryError):
        segment([reference], target, chosen, engine=small)
