"""Does every correction make the next result better? Two loops, on subjects that training never saw.

Slices: in one volume, 0, 1, 3 and 5 slices are put right (the truth, evenly over the structures) and the others follow;
Dice over the slices that are corrected in none of the runs, so that the corrected ones do not count themselves.
Cases: one case after the other is segmented with what the bank picks, and its corrected form (the truth) enters the
bank; beside it the same targets with the bank as it was at the start, one case. Both are drawn with --pictures FOLDER,
as loop.png. What `--check` calls rising: no more corrected slices give more than TOLERANCE less Dice than fewer, and
the most more than none, in every set; the bank that grows is better than its first case, and its gain over the later
half of the cases no more than TOLERANCE below that over the earlier half.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
from sets import pairs_for, spread

from rau.bank.bank import Bank
from rau.bank.search import pick
from rau.corrections import Corrections
from rau.errors import RauError
from rau.evaluation.datasets import held_out_cases
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.pairs import Pair
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap

COUNTS = (0, 1, 3, 5)
VOLUMES = ("msd_hippocampus", "acdc_cine_mr", "lung_proton_mr")
CASES = "msd_hippocampus"
TOLERANCE = 0.01  # of mean Dice, by which a step may fall and still count as rising: what a few volumes cannot tell


def corrected_slices(truth: LabelMap, axis: int, count: int) -> tuple[int, ...]:
    """`count` slices, evenly over those that show a structure."""
    others = tuple(a for a in range(3) if a != axis)
    shown = np.nonzero(truth.array.any(axis=others))[0]
    places = (np.arange(count) + 0.5) / max(1, count) * len(shown)
    return tuple(int(shown[int(place)]) for place in places)


def without(labels: LabelMap, axis: int, slices: tuple[int, ...]) -> LabelMap:
    """The label map with nothing in these slices."""
    array = labels.array.copy()
    np.moveaxis(array, axis, 0)[list(slices)] = 0
    return LabelMap(array, labels.geometry, labels.structures)


def by_slices(pair: Pair, engine: Engine, settings: SegmentSettings) -> dict[int, float | None]:
    """Dice of each number of corrected slices, over the slices that no run had corrected."""
    reference, target, truth = common.read_pair(pair)
    results = {0: segment([reference], target, settings, engine=engine)}
    axis = results[0].slices[0].axis
    chosen = {count: corrected_slices(truth, axis, count) for count in COUNTS if count}
    for count, slices in chosen.items():
        given = Corrections(truth, axis, slices)
        results[count] = segment([reference], target, settings, engine=engine, corrections=given)
    used = tuple(sorted({index for slices in chosen.values() for index in slices}))
    left = without(truth, axis, used)
    return {
        count: mean_of(dice_of_structures(left, without(one.labels, axis, used), reference.structures))
        for count, one in results.items()
    }


def by_cases(name: str, count: int, engine: Engine, settings: SegmentSettings) -> list[tuple[float, float]]:
    """Dice of case 1, 2, ...: with the bank that grows, and with the one case it began with."""
    cases = held_out_cases(name)[: count + 1]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank")
        image, labels = cases[0].read()
        first = Reference(image, labels)
        bank.add(first)
        for case in cases[1:]:
            target, truth = case.read()
            chosen = pick(bank, target, engine, settings)
            grown = segment(chosen.references, target, settings, engine=engine)
            fixed = segment([first], target, settings, engine=engine) if len(found) else grown
            scores = [mean_of(dice_of_structures(truth, one.labels, first.structures)) or 0.0 for one in (grown, fixed)]
            found.append((scores[0], scores[1]))
            common.say(
                f"  case {len(found)}: {scores[0]:.3f} with {len(bank.entries())} in the bank, {scores[1]:.3f} with 1"
            )
            bank.accept(Reference(target, truth), grown.provenance)
    return found


def rising(scores: Sequence[float]) -> bool:
    """Whether no step falls by more than TOLERANCE and the last is above the first."""
    steps = zip(scores, scores[1:])
    return all(after >= before - TOLERANCE for before, after in steps) and scores[-1] > scores[0]


def draw(folder: Path, slices: dict[str, dict[int, float]], cases: list[tuple[float, float]]) -> None:
    """Both loops on one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, scores in slices.items():
        left.plot(list(scores), list(scores.values()), marker="o", label=name)
    left.set(xlabel="corrected slices of the volume", ylabel="Dice of the other slices", ylim=(0, 1))
    left.legend()
    for place, label in enumerate(("a bank that grows", "the first case alone")):
        values = np.array([one[place] for one in cases])
        right.plot(np.arange(1, len(values) + 1), np.cumsum(values) / np.arange(1, len(values) + 1), label=label)
    shown = np.array(cases)
    right.set(xlabel="cases segmented", ylabel="mean Dice so far", ylim=(shown.min() - 0.05, shown.max() + 0.05))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "loop.png", dpi=110)


def slices_of_sets(arguments: Namespace, engine: Engine, settings: SegmentSettings) -> dict[str, dict[int, float]]:
    """Mean Dice of each set and number of corrected slices."""
    found: dict[str, dict[int, float]] = {}
    for name in arguments.sets.split(","):
        outcomes = []
        for pair in spread(pairs_for(name), arguments.limit):
            outcomes.append(by_slices(pair, engine, settings))
            told = ", ".join(f"{count}: {common.number(value)}" for count, value in outcomes[-1].items())
            common.say(f"  {name} {pair.label}, Dice by corrected slices: {told}")
        found[name] = {count: mean([one[count] for one in outcomes]) or 0.0 for count in COUNTS}
    return found


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--sets", default=",".join(VOLUMES), help=f"of volumes (default {','.join(VOLUMES)})")
    parser.add_argument("--limit", type=int, default=4, help="pairs of each set (default 4)")
    parser.add_argument("--cases", type=int, default=12, help="cases that enter the bank (default 12)")
    parser.add_argument("--parts", default="slices,cases", help="which loops (default slices,cases)")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="also draw both loops there")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sets, arguments.limit, arguments.cases = CASES, 1, 2
    parts = arguments.parts.split(",")
    try:
        engine, settings = common.engine_for(arguments)
        slices = slices_of_sets(arguments, engine, settings) if "slices" in parts else {}
        cases = by_cases(CASES, arguments.cases, engine, settings) if "cases" in parts else []
    except RauError as problem:
        return common.stop(problem)
    if arguments.pictures and slices and cases:
        draw(arguments.pictures, slices, cases)
    common.write_json(arguments.json, {"slices": slices, "cases": cases})
    told, holds = [], True
    if slices:
        rows = [[name, *scores.values()] for name, scores in slices.items()]
        print_table("Dice of the slices that are not corrected", ["set", *(f"{n} corrected" for n in COUNTS)], rows)
        rises = [rising(list(scores.values())) for scores in slices.values()]
        few, many = (float(np.mean([one[count] for one in slices.values()])) for count in (0, COUNTS[-1]))
        of = f"rising in {sum(rises)} of {len(rises)} sets"
        told.append(f"other slices {few:.3f} -> {many:.3f} with {COUNTS[-1]} corrected ({of})")
        holds = all(rises)
    if len(cases) > 1:
        gains = [grown - fixed for grown, fixed in cases[1:]]
        early, late = gains[: len(gains) // 2], gains[len(gains) // 2 :]
        common.say(f"gain of the bank over its first case: {np.mean(early or [0]):+.3f}, then {np.mean(late):+.3f}")
        grown, fixed = (float(np.mean([one[place] for one in cases[1:]])) for place in (0, 1))
        told.append(f"cases {fixed:.3f} with the first reference, {grown:.3f} with the bank that grows")
        later = not early or float(np.mean(late)) >= float(np.mean(early)) - TOLERANCE
        holds = holds and grown > fixed and (arguments.quick or later)
    common.say("; ".join(told))
    return int(arguments.check and not holds)


if __name__ == "__main__":
    sys.exit(main())
