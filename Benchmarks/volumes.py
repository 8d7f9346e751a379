"""Does the third dimension pay, and what does each economy cost? Volumes, one reference for each target.

First table: slices by themselves; with the gate (presence along the slices, structures end where it falls); with
neighbouring slices in memory (propagation), all of them or those whose mask is sure; with both; with the ends judged by
all signs; with the other planes. Dice, and the leak: voxels of a structure beyond its true first and last slice, as a
share of its true volume. Second table: the default with one economy each (`rau.sam.reading.Economy`, fewer reference
slices, fewer pixels), Dice and time of the network beside the default's. Registration and expert are computed once a
pair: only what the network does differs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import common
import numpy as np
from sets import pairs_for, spread

from rau.assembly.labels import PlaneVotes
from rau.errors import RauError
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.pairs import Pair
from rau.evaluation.tables import Cell, print_table
from rau.events import ignore
from rau.models.engine import Engine
from rau.pipeline import guided, join
from rau.preparation import Case, prepare
from rau.sam.propagation import Recipe, segment_plane
from rau.sam.reading import Economy, fast
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap

SETS = ("msd_hippocampus", "acdc_cine_mr", "fsmedsam2_chaos_pair", "lung_proton_mr")
NO_GATE = 0.0
SURE = 0.9  # predicted IoU from which a neighbour is relied on, as `rau segment` has it


@dataclass(frozen=True)
class Variant:
    """recipe: what is in memory. threshold: of presence; NO_GATE: every slice counts. planes: how many, 0: all.

    size: pixels that the network sees, 0: its own. alone: without expert and registration, so that the network's own
    mistakes are seen. signs: structures end where all signs say so (`rau.assembly.ends`), not by presence alone.
    """

    name: str
    recipe: Recipe = Recipe()
    threshold: float = 0.5
    planes: int = 0
    economy: Economy = Economy()
    size: int = 0
    alone: bool = False
    signs: bool = False


def alone(name: str, neighbours: int, gate: bool, planes: int = 1) -> Variant:
    recipe = replace(Recipe(), neighbours=neighbours)
    return Variant(name, recipe, 0.5 if gate else NO_GATE, planes, alone=True)


def ending(name: str, neighbours: int, planes: int = 1, neighbour_iou: float = 0.0) -> Variant:
    made = alone(name, neighbours, True, planes)
    return replace(made, signs=True, recipe=replace(made.recipe, neighbour_iou=neighbour_iou))


INDEPENDENT, BOTH, WHOLE = "independent slices", "ends and a sure neighbour", "ends, a sure neighbour"
THIRD = (
    alone(INDEPENDENT, 0, False),
    alone("gate", 0, True),
    alone("two neighbours alone", 2, False),
    alone("gate and two neighbours", 2, True),
    alone("gate and three planes", 0, True, 0),
    ending("ends by all signs", 0),
    ending("ends and two neighbours", 2),
    ending(BOTH, 1, neighbour_iou=SURE),
    ending("the same, three planes", 1, 0, SURE),
    ending("ends and three planes", 0, 0),
)
DEFAULT, RECOMMENDED = "default", "recommended"
ECONOMIES = (
    Variant(DEFAULT),
    Variant("two neighbours", Recipe(neighbours=2)),
    Variant("ends", signs=True),
    Variant(WHOLE, Recipe(neighbours=1, neighbour_iou=SURE), signs=True),
    Variant("one reference slice", Recipe(references=1)),
    Variant("pooled", economy=Economy(pool=2)),
    Variant("half", economy=Economy(half=True)),
    Variant("128 pixels", size=128),
    Variant(RECOMMENDED, economy=fast(192)),
)


@dataclass
class Scores:
    """Of one variant over the pairs of a set."""

    dice: list[float | None] = field(default_factory=list)
    leak: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def leak(truth: LabelMap, found: LabelMap, axis: int) -> float:
    """Mean over structures: voxels found beyond the true first and last slice, as a share of the true voxels."""
    shares = []
    for one in truth.structures:
        there = np.moveaxis(truth.array == one.value, axis, 0)
        shown = np.nonzero(there.any((1, 2)))[0]
        ours = next((s.value for s in found.structures if s.name.lower() == one.name.lower()), None)
        if len(shown) and ours is not None:
            drawn = np.moveaxis(found.array == ours, axis, 0)
            beyond = drawn[: shown[0]].sum() + drawn[shown[-1] + 1 :].sum()
            shares.append(float(beyond / there.sum()))
    return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True)
class Ready:
    """A pair up to the network: everything that the variants share."""

    case: Case
    guide: Any
    reference: Any
    target: Any
    truth: LabelMap


def ready(pair: Pair, engine: Engine, settings: SegmentSettings) -> Ready:
    reference, target, truth = common.read_pair(pair)
    case = prepare([reference], target, settings, engine, ignore)
    return Ready(case, guided(case, settings, ignore, lambda: None), reference, target, truth)


def run(one: Ready, variant: Variant, engine: Engine, settings: SegmentSettings) -> tuple[LabelMap, float]:
    """Labels of a variant, and the processor seconds of the network."""
    segmenter, case = engine.segmenter, one.case
    own, planes = segmenter.size, case.planes[: variant.planes or None]
    segmenter.model.memory_attention.economy = variant.economy
    if variant.size:
        segmenter.set_size(variant.size)
    try:
        votes, start = [], time.process_time()
        candidates = None if one.guide is None or variant.alone else one.guide.candidate
        for plane in planes:
            for match in plane.matches:
                match.reference.forget()
            single = case.single if variant.signs else None
            vote = PlaneVotes(case.values, plane.images.array.shape[:3], plane.images.axis, single)
            for found in segment_plane(segmenter, plane.images, plane.matches, variant.recipe, candidates):
                vote.add(found)
            votes.append(vote)
        seconds = time.process_time() - start
    finally:
        segmenter.set_size(own)
        segmenter.model.memory_attention.economy = Economy()
        for plane in planes:
            for match in plane.matches:
                match.reference.forget()
    chosen = settings.model_copy(update={"presence_threshold": variant.threshold})
    plain = replace(case, references=tuple(replace(r, registered=None) for r in case.references))
    labels, _ = join(plain if variant.alone else case, votes, chosen, one.target, None if variant.alone else one.guide)
    return labels, seconds


def measured(
    variants: tuple[Variant, ...], name: str, engine: Engine, settings: SegmentSettings, limit: int
) -> dict[str, Scores]:
    found = {variant.name: Scores() for variant in variants}
    for pair in spread(pairs_for(name), limit):
        one = ready(pair, engine, settings)
        axis = one.case.place(one.case.planes[0].images.axis, 0)[0]
        for variant in variants:
            labels, seconds = run(one, variant, engine, settings)
            scores = found[variant.name]
            scores.dice.append(mean_of(dice_of_structures(one.truth, labels, one.reference.structures)))
            scores.leak.append(leak(one.truth, labels, axis))
            scores.seconds.append(seconds)
        told = ", ".join(f"{key} {common.number(scores.dice[-1])}" for key, scores in found.items())
        common.say(f"  {name} {pair.label}: {told}")
    return found


def over(results: dict[str, dict[str, Scores]], name: str, of: Callable[[Scores], float]) -> float:
    """Mean over sets."""
    return float(np.mean([of(scores[name]) for scores in results.values()]))


def dice_of(scores: Scores) -> float:
    return mean(scores.dice) or 0.0


def leak_of(scores: Scores) -> float:
    return float(np.mean(scores.leak))


def table(title: str, variants: tuple[Variant, ...], results: dict[str, dict[str, Scores]]) -> None:
    rows: list[list[Cell]] = []
    base = variants[0].name
    for variant in variants:
        sets = [dice_of(scores[variant.name]) for scores in results.values()]
        pace = over(results, variant.name, lambda one: float(np.sum(one.seconds)))
        rows.append(
            [
                variant.name,
                *sets,
                float(np.mean(sets)),
                over(results, variant.name, leak_of),
                pace / over(results, base, lambda one: float(np.sum(one.seconds))),
            ]
        )
    print_table(title, ["variant", *results, "mean Dice", "leak", "time, ratio"], rows)


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--sets", default=",".join(SETS), help=f"of volumes (default {','.join(SETS)})")
    parser.add_argument("--limit", type=int, default=4, help="pairs of each set (default 4)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sets, arguments.limit = SETS[0], 1
    try:
        engine, settings = common.engine_for(arguments)
        third: dict[str, dict[str, Scores]] = {}
        economies: dict[str, dict[str, Scores]] = {}
        for name in arguments.sets.split(","):
            both = measured((*THIRD, *ECONOMIES), name, engine, settings, arguments.limit)
            third[name] = {one.name: both[one.name] for one in THIRD}
            economies[name] = {one.name: both[one.name] for one in ECONOMIES}
    except RauError as problem:
        return common.stop(problem)
    table("The third dimension (the network alone)", THIRD, third)
    table("Economies (with expert and registration)", ECONOMIES, economies)
    gain = over(third, BOTH, dice_of) - over(third, INDEPENDENT, dice_of)
    leaks = [over(third, name, leak_of) for name in (INDEPENDENT, BOTH)]
    cost = over(economies, DEFAULT, dice_of) - over(economies, RECOMMENDED, dice_of)
    common.write_json(
        arguments.json,
        {name: {key: vars(one) for key, one in {**third[name], **economies[name]}.items()} for name in third},
    )
    common.say(
        f"{BOTH}: {gain:+.3f} Dice over independent slices, leak {leaks[0]:.3f} -> {leaks[1]:.3f}; "
        f"the recommended economy costs {cost:.4f} Dice"
    )
    return int(arguments.check and not (gain > 0 and leaks[1] <= 0.5 * leaks[0] and cost <= 0.005))


if __name__ == "__main__":
    sys.exit(main())
