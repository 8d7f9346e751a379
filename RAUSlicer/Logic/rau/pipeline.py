"""The way of the data, readable in one screen: volume, references, segmenter, assembly, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import Cancelled, out_of_memory
from rau.events import Event, OnEvent, ShouldStop, SliceEvent, StageEvent, WarningEvent, ignore, never
from rau.references.reference import Reference
from rau.results import SegmentResult, SliceResult, StructureResult
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Structure, Volume

if TYPE_CHECKING:
    from rau.adaptation.guide import Guide
    from rau.assembly.labels import PlaneVotes
    from rau.corrections import Corrections
    from rau.models.engine import Engine
    from rau.preparation import Case
    from rau.sam.propagation import Advice
    from rau.vlm.reason import CaseCues

CPU_INSTEAD = "The memory of the GPU does not suffice: the CPU computes instead, which takes longer"
UNROUTED = "There is no routed answer (reasoning routed, of a model trained for it): structures and looks go without"
CLOSER = "closer look"  # the part of a slice of which a structure was looked at again


def segment(
    references: Sequence[Reference],
    target: Volume,
    settings: SegmentSettings | None = None,
    *,
    engine: Engine | None = None,
    corrections: Corrections | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
) -> SegmentResult:
    """Segment `target` from `references`; the label map comes back on the target's own grid.

    engine: loaded models (`rau.models.engine.load_engine(settings)`); None loads them now. corrections: slices of the
    target that were put right; they stay as they are, and the others follow them. should_stop is asked between slices.
    Where the memory of a GPU runs out, even for one structure at a time, the CPU computes, with a warning.
    Raises InputError, ModelError, Cancelled; a run that finds nothing returns a result with `found` False.
    """
    from rau.models.engine import load_engine

    settings = settings or SegmentSettings()
    engine = with_site(engine or load_engine(settings), settings)
    given = (references, target, settings)
    try:
        return _segment(*given, engine, corrections, on_event, should_stop)
    except (RuntimeError, MemoryError) as problem:
        if engine.device == "cpu" or not out_of_memory(problem):
            raise
    on_event(WarningEvent(CPU_INSTEAD))
    engine = with_site(load_engine(settings.model_copy(update={"device": "cpu"})), settings)
    result = _segment(*given, engine, corrections, on_event, should_stop)
    return replace(result, warnings=(CPU_INSTEAD, *result.warnings))


def with_site(engine: Engine, settings: SegmentSettings) -> Engine:
    """The engine with the adapter that is asked for. Raises ModelError: missing, damaged, of another base."""
    from rau.adaptation.site import adapted

    return adapted(engine, settings.adapter) if settings.adapter else engine


def _segment(
    references: Sequence[Reference],
    target: Volume,
    settings: SegmentSettings,
    engine: Engine,
    corrections: Corrections | None,
    on_event: OnEvent,
    should_stop: ShouldStop,
) -> SegmentResult:
    """All steps, on the engine's device."""
    from rau.preparation import prepare

    start, warnings = time.perf_counter(), list[str]()

    def tell(event: Event) -> None:
        if isinstance(event, WarningEvent):
            warnings.append(event.message)
        on_event(event)

    def go_on() -> None:
        if should_stop():
            raise Cancelled()

    tell(StageEvent("read"))
    case = prepare(references, target, settings, engine, tell, corrections)
    guide = guided(case, settings, engine, tell, go_on)
    cues = reasoned(case, settings, engine, tell, go_on)
    votes, slices = walked(case, guide, cues, settings, engine, tell, go_on)
    looked = looked_closer(case, votes, settings, engine, guide, cues, tell, go_on)
    slices = [replace(one, parts=(*one.parts, CLOSER)) if (one.axis, one.index) in looked else one for one in slices]
    tell(StageEvent("assemble"))
    grid, results = join(case, votes, settings, target, guide, cues)
    odd = case.unlike(grid, results)
    for structure in odd:
        words = "what lies in its place does not look like the reference's; not found"
        tell(WarningEvent(f"{structure.name}: {words}"))
    if odd:
        grid, results = join(case, votes, settings, target, guide, cues, [structure.value for structure in odd])
    grid, results, moved = rearranged(case, votes, settings, target, guide, cues, grid, results, odd, tell)
    quality = judged(case, votes, guide, cues, grid, results, settings, tell, go_on)
    seconds = time.perf_counter() - start
    paths = {"model": engine.name, "adapter": Path(settings.adapter).name}  # of paths the last part alone
    chosen = {**settings.model_dump(mode="json"), **paths}
    provenance = {"settings": chosen, "versions": engine.versions()}
    said = {} if cues is None else cues.report({one.value: one.name for one in case.structures}, case.place)
    return SegmentResult(grid, results, tuple(slices), tuple(warnings), seconds, provenance, said, quality, moved)


def walked(
    case: Case,
    guide: Guide | None,
    cues: CaseCues | None,
    settings: SegmentSettings,
    engine: Engine,
    tell: OnEvent,
    go_on: Callable[[], None],
) -> tuple[list[PlaneVotes], list[SliceResult]]:
    """The slices of every plane through SAM2: what each plane votes for, and what became of each slice.

    Every slice of the acquisition plane, and of the others as `step_of` says.
    """
    from rau.assembly.labels import PlaneVotes, preview
    from rau.preparation import step_of
    from rau.sam.propagation import Recipe, segment_plane, walks
    from rau.sam.reading import Economy, fast

    tell(StageEvent("segment"))
    recipe = Recipe(settings.references_per_slice, settings.neighbours, neighbour_iou=settings.neighbour_iou)
    candidates = guide.candidate if guide is not None else None
    segmenter, votes, slices = engine.segmenter, list[PlaneVotes](), list[SliceResult]()
    single = case.single if settings.ends == "signs" else None
    steps = [step_of(settings, number, len(plane.images)) for number, plane in enumerate(case.planes)]
    ways = [walks(plane.matches, len(plane.images), step) for plane, step in zip(case.planes, steps, strict=True)]
    total, rows = sum(len(on) + len(back) for on, back in ways), segmenter.rows_at_once
    quick = fast(segmenter.size, segmenter.device.type) if settings.speed == "fast" else Economy()
    segmenter.model.memory_attention.economy = quick
    for number, plane in enumerate(case.planes):
        vote = PlaneVotes(case.values, plane.images.array.shape[:3], plane.images.axis, single)
        clock = time.perf_counter()
        advice = advice_of(cues, engine) if number == 0 else None
        stepped = replace(recipe, step=steps[number])
        for one in segment_plane(segmenter, plane.images, plane.matches, stepped, candidates, advice):
            go_on()
            vote.add(one)
            spent, clock = 1e3 * (time.perf_counter() - clock), time.perf_counter()
            slices.append(case.slice_result(plane, one, spent))
            axis, index = case.place(plane.images.axis, one.index)
            seen = preview(one, settings.presence_threshold) if number == 0 else None
            shown = None if seen is None else case.slice_back(plane.images.axis, seen)
            score = float(one.iou.mean()) if len(one.iou) else 0.0
            tell(SliceEvent(len(slices), total, index, axis, shown, score, spent))
        vote.complete()
        votes.append(vote)
    if segmenter.rows_at_once != rows:
        tell(WarningEvent(f"Memory was short: {segmenter.rows_at_once} structures at a time were segmented"))
    return votes, slices


def judged(
    case: Case,
    votes: Sequence[PlaneVotes],
    guide: Guide | None,
    cues: CaseCues | None,
    grid: LabelMap,
    results: Sequence[StructureResult],
    settings: SegmentSettings,
    tell: OnEvent,
    go_on: Callable[[], None],
) -> dict[str, Any]:
    """How far the result can be trusted, ready for JSON; empty where nobody wants to know."""
    from rau.quality.judge import judge

    if settings.quality == "off":
        return {}
    tell(StageEvent("judge"))
    return judge(case, votes, guide, cues, grid, results, settings, go_on).report()


def guided(
    case: Case, settings: SegmentSettings, engine: Engine, tell: OnEvent, go_on: Callable[[], None]
) -> Guide | None:
    """The experts' view of the target; None where they are not wanted or there is no room for them."""
    from rau.adaptation.guide import build_guide, within_reach

    if settings.adaptation == "off" or not within_reach(case):
        return None
    tell(StageEvent("adapt"))
    return build_guide(case, settings.seed, go_on, engine.pixels)


def looked_closer(
    case: Case,
    votes: Sequence[PlaneVotes],
    settings: SegmentSettings,
    engine: Engine,
    guide: Guide | None,
    cues: CaseCues | None,
    tell: OnEvent,
    go_on: Callable[[], None],
) -> set[tuple[int, int]]:
    """Small structures again, in crops; changes `votes`. Returns (axis, index), the target's own, of what was taken."""
    from rau.assembly.labels import assemble
    from rau.look.closer import look_again
    from rau.look.rules import Looks
    from rau.look.visits import worthwhile

    looks = Looks()
    if settings.look == "off" or not any(worthwhile(plane.images, looks) for plane in case.planes):
        return set()
    tell(StageEvent("look"))
    labels = assemble(votes, settings.presence_threshold, case.prior, (), guide, cues)
    candidates = guide.candidate if guide is not None else None
    wanted = cues.look if settings.look == "routed" and cues is not None else None
    pairs = zip(case.planes, votes, strict=True)
    found = look_again(engine.segmenter, pairs, labels, candidates, looks, go_on, wanted)
    return {case.place(one.axis, one.index) for one in found if one.taken}


def reasoned(
    case: Case, settings: SegmentSettings, engine: Engine, tell: OnEvent, go_on: Callable[[], None]
) -> CaseCues | None:
    """What the VLM says at the key slices; None where it is not asked."""
    from rau.vlm.reason import reason

    known, uses = engine.reasoning, engine.uses(settings)
    routed = known.routed() if known is not None and settings.reasoning == "routed" else None
    if "routed" in (settings.reasoning, settings.look) and routed is None:
        tell(WarningEvent(UNROUTED))
    if known is None or not uses:
        return None
    tell(StageEvent("reason"))
    return reason(case, routed or known, uses, go_on)


def advice_of(cues: CaseCues | None, engine: Engine) -> Advice | None:
    """The cues of the acquisition plane as what its slices are told."""
    from rau.sam.hints import Hinted
    from rau.sam.propagation import Advice

    known = engine.reasoning
    if cues is None or known is None:
        return None
    injection = known.fusion.config.injection if known.fusion is not None else "token"
    return Advice(cues.hints, None if known.segmenter is None else Hinted(known.segmenter, injection))


def join(
    case: Case,
    votes: Sequence[PlaneVotes],
    settings: SegmentSettings,
    target: Volume,
    guide: Guide | None = None,
    cues: CaseCues | None = None,
    leave_out: Sequence[int] = (),
) -> tuple[LabelMap, tuple[StructureResult, ...]]:
    """The votes of the planes as labels on the target's own grid, and what they say of each structure."""
    from rau.assembly.carrying import carried, ended
    from rau.assembly.labels import assemble, drop_islands
    from rau.assembly.smoothness import smooth
    from rau.assembly.summary import summarise

    labels = assemble(votes, settings.presence_threshold, case.prior, leave_out, guide, cues)
    labels = smooth(drop_islands(labels, case.single), case.smoothness, case.planes[0].images.spacing)
    if case.corrected is not None:
        labels = carried(labels, case.corrected, case.planes[0].images.spacing)
        labels = case.corrected.laid_on(ended(labels, case.corrected, case.single))
    grid = LabelMap(case.orientation.back(labels), target.geometry, case.structures)
    return grid, summarise(grid, votes, target.spacing_known)


def rearranged(
    case: Case,
    votes: Sequence[PlaneVotes],
    settings: SegmentSettings,
    target: Volume,
    guide: Guide | None,
    cues: CaseCues | None,
    grid: LabelMap,
    results: tuple[StructureResult, ...],
    odd: Sequence[Structure],
    tell: OnEvent,
) -> tuple[LabelMap, tuple[StructureResult, ...], tuple[dict[str, Any], ...]]:
    """What `join` gave, with pieces moved that lie where no reference has them; each is told. odd: not to be found."""
    from rau.assembly.summary import summarise
    from rau.quality.correcting import corrected

    if settings.priors == "flag":
        return grid, results, ()
    leave_out = [structure.value for structure in odd]
    grid, moves = corrected(case, votes, guide, cues, grid, settings.presence_threshold, leave_out)
    if not moves:
        return grid, results, ()
    names = {one.value: one.name for one in case.structures}
    for one in moves:
        tell(WarningEvent(one.words(names)))
    return grid, summarise(grid, votes, target.spacing_known), tuple(one.report(names) for one in moves)
