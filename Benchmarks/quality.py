"""Does a result know how good it is? Expected against true Dice, structure by structure, without the truth at hand.

On every set that training may not see and the held-out cases of two others, one reference a target (pairs by the rule
of `rau.evaluation.pairs`): rank correlation of expected and true Dice, how often the 90 % interval holds the truth, how
many of the worst fifth of results are flagged (amber or red) and how many of the good ones (Dice from 0.8 on) are, what
the score of a slice says of its Dice, and what the judgement costs. Structures found are counted; those not found have
no estimate ("absent"). `--fit` runs the cases of `quality_tasks.py` (none of these sets), fits the coefficients and
writes them into the package; what was run is kept in a folder (`--kept`), so that fitting again runs nothing.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from quality_fit import fitted, table_of, text_of
from quality_runs import Kept, Run, measured, version_of
from quality_tasks import fit_tasks
from sets import pairs_for, spread, wanted_sets

from rau.errors import InputError, RauError
from rau.evaluation.datasets import find_data
from rau.evaluation.tables import print_table
from rau.export.writing import replaced
from rau.models.engine import Engine
from rau.quality import estimate
from rau.quality.slices import scored
from rau.settings import SegmentSettings

SPEARMAN = 0.6  # of expected and true Dice, at least
COVERAGE = (0.85, 0.95)  # of the 90 % interval
COST = 0.2  # of the time of `rau segment`, at most
WORST, GOOD = 0.2, 0.8  # share of the results that are the worst; Dice from which on a result is good
COLUMNS = ("set", "structures", "true Dice", "expected", "Spearman", "in interval", "width", "worst flagged", "false")


@dataclass(frozen=True)
class Figures:
    """Of n structures found. flagged: share of the worst fifth that is amber or red; red: that is red; false: share of
    the good ones that is flagged. missed: structures not found that are there. None where there is nothing to tell of.
    """

    n: int
    dice: float | None
    expected: float | None
    spearman: float | None
    coverage: float | None
    width: float | None
    flagged: float | None
    red: float | None
    false: float | None
    missed: int


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's; None for fewer than three, or where one side does not vary."""
    from scipy.stats import spearmanr

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other)[0])


def figures_of(runs: Sequence[Run], model: estimate.Coefficients) -> Figures:
    """With the coefficients of `model`, whatever was in use when the cases ran."""
    told = []
    for run in runs:
        told += [(model.estimate(estimate.numbers_of(row.evidence)), row.dice) for row in run.rows]
    return of_estimates(told, sum(run.missed for run in runs))


def of_estimates(told: Sequence[tuple[estimate.Estimate, float]], missed: int) -> Figures:
    if not told:
        return Figures(0, None, None, None, None, None, None, None, None, missed)
    found, truth = [one for one, _ in told], np.array([dice for _, dice in told])
    expected = np.array([one.expected for one in found])
    low, high = np.array([one.low for one in found]), np.array([one.high for one in found])
    light = np.array([one.light for one in found])
    worst = np.argsort(truth, kind="stable")[: max(1, round(WORST * len(truth)))]
    good = truth >= GOOD
    return Figures(
        len(truth),
        float(truth.mean()),
        float(expected.mean()),
        rank_correlation(expected, truth),
        float(((truth >= low - 1e-9) & (truth <= high + 1e-9)).mean()),
        float((high - low).mean()),
        float((light[worst] != "green").mean()),
        float((light[worst] == "red").mean()),
        float((light[good] != "green").mean()) if good.any() else None,
        missed,
    )


def slice_figures(runs: Sequence[Run]) -> tuple[float | None, float | None]:
    """Of volumes: mean over the runs of the rank correlation of a slice's score with its mean Dice, and the share of
    each run's worst fifth of slices (of five and more) that is in the first fifth of the list to review.
    """
    ranks, caught = [], []
    for run in runs:
        truth: dict[int, list[float]] = {}
        for row in run.slices:
            truth.setdefault(row.signs.index, []).append(row.dice)
        slices = scored([row.signs for row in run.slices])
        if len(slices) < 5:
            continue
        score = np.array([one.score for one in slices])
        dice = np.array([np.mean(truth[one.index]) for one in slices])
        rank = rank_correlation(score, dice)
        if rank is not None:
            ranks.append(rank)
        fifth = max(1, round(WORST * len(slices)))
        caught.append(len(set(np.argsort(score)[:fifth]) & set(np.argsort(dice)[:fifth])) / fifth)
    return (float(np.mean(ranks)) if ranks else None, float(np.mean(caught)) if caught else None)


def run_sets(arguments: Namespace, engine: Engine, settings: SegmentSettings, kept: Kept) -> dict[str, list[Run]]:
    """The pairs of every set, told as they end; what fails is told, and the others run."""
    found: dict[str, list[Run]] = {}
    for name in wanted_sets(arguments.sets, arguments.quick):
        common.say(name)
        found[name] = []
        try:
            pairs = spread(pairs_for(name), arguments.limit)
        except RauError as problem:
            common.say(f"  failed: {problem}")
            continue
        for pair in pairs:
            key = f"eval {name} {pair.label} {settings.planes}"
            try:
                run = kept.get(key) or measured(key, name, "", common.read_pair(pair), engine, settings)
            except Exception as problem:  # a benchmark reports a defect and goes on
                common.say(f"  {pair.label}: failed: {type(problem).__name__}: {problem}")
                continue
            kept.put(run)
            found[name].append(run)
            common.say(
                f"  {pair.label}: {len(run.rows)} structures, judged in {run.judging:.1f} of {run.seconds:.1f} s"
            )
    return found


def run_fit(arguments: Namespace, engine: Engine, settings: SegmentSettings, kept: Kept) -> list[Run]:
    """The cases of the fit, from the folder where they were run before."""
    found = []
    for task in fit_tasks(find_data(), arguments.each):
        run = kept.get(task.key)
        if run is None:
            made = task.make()
            if made is None:
                continue
            read = (made.reference, made.target, made.truth)
            run = measured(task.key, task.source, task.spoilt, read, engine, settings)
            kept.put(run)
            common.say(f"  {task.key}: {len(run.rows)} structures in {run.seconds:.1f} s")
        found.append(run)
    return found


def fit(runs: Sequence[Run]) -> str:
    """Print how good the estimate is on sources that it has not seen; the content of coefficients.json."""
    table = table_of(runs)
    told, expected = fitted(table)
    text = text_of(told)
    model = estimate.parsed(text)
    rows: list[list[Any]] = []
    for source in ["all", "as they are", "spoilt", *np.unique(table.source)]:
        groups = {"all": np.ones(len(table.y), bool), "as they are": ~table.spoilt, "spoilt": table.spoilt}
        here = groups.get(source, table.source == source)
        estimates = [(model.interval(float(e)), float(y)) for e, y in zip(expected[here], table.y[here])]
        one = of_estimates(estimates, 0)
        rows.append(row_of(source, one))
    print_table("Sources left out of the fit, each in turn", COLUMNS, rows)
    return text


def row_of(title: str, one: Figures) -> list[Any]:
    numbers = [one.dice, one.expected, one.spearman, one.coverage, one.width, one.flagged, one.false]
    return [title, one.n, *numbers]


def targets(all_: Figures, cost: float | None) -> list[tuple[str, bool]]:
    """What is asked, in words with the figure, and whether it is met."""

    def within(value: float | None, low: float, high: float) -> bool:
        return value is not None and low <= value <= high

    shown = common.number
    return [
        (f"Spearman at least {SPEARMAN}: {shown(all_.spearman)}", within(all_.spearman, SPEARMAN, 1)),
        (f"coverage {COVERAGE[0]} to {COVERAGE[1]}: {shown(all_.coverage)}", within(all_.coverage, *COVERAGE)),
        (f"cost at most {COST} of the run: {shown(cost)}", within(cost, 0, COST)),
    ]


def conclude(sets: dict[str, list[Run]], arguments: Namespace) -> int:
    """Tables, targets, figure; the exit status."""
    model = estimate.coefficients()
    runs = [run for several in sets.values() for run in several]
    rows = [row_of(name, figures_of(several, model)) for name, several in sets.items()]
    all_, (rank, caught) = figures_of(runs, model), slice_figures(runs)
    print_table("Expected and true Dice of the structures found", COLUMNS, [*rows, row_of("all", all_)])
    whole = sum(run.seconds for run in runs)
    cost = sum(run.judging for run in runs) / whole if whole else None
    shown = common.number
    common.say(f"slices of volumes: Spearman {shown(rank)}, worst fifth found {shown(caught)} (by chance 0.200)")
    common.say(f"structures that are there and were not found: {all_.missed}")
    good = True
    for words, met in targets(all_, cost):
        common.say(f"  {'met' if met else 'missed'}: {words}")
        good &= met
    told = {name: [vars(figures_of(several, model))] for name, several in sets.items()}
    common.write_json(arguments.json, {"sets": told, "all": vars(all_), "slices": [rank, caught], "cost": cost})
    common.say(
        f"Spearman {shown(all_.spearman)} over {all_.n} structures of {len(runs)} pairs, {shown(all_.coverage)} in the "
        f"90 % interval, {shown(all_.flagged)} of the worst fifth flagged ({shown(all_.red)} red), false alarms "
        f"{shown(all_.false)}, cost {shown(cost)} of the run"
    )
    return int(arguments.check and not good)


def parser() -> ArgumentParser:
    made = common.options(__doc__)
    made.add_argument("--sets", help="names of sets, with commas between them (default: all)")
    made.add_argument("--limit", type=int, default=6, help="pairs a set at the most; 0: all (default: 6)")
    made.add_argument("--kept", type=Path, metavar="FOLDER", help="keep what was run in this folder, as JSON")
    made.add_argument("--fit", action="store_true", help="fit the coefficients, and write them into the package")
    made.add_argument("--each", type=int, default=3, help="for --fit: pairs of each family of random anatomies")
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.limit, arguments.planes = 1, "acquisition"
    try:
        engine, settings = common.engine_for(arguments)
        kept = Kept(arguments.kept, version_of(engine))
        if arguments.fit:
            text = fit(run_fit(arguments, engine, settings, kept))
            path = Path(estimate.__file__).with_name("coefficients.json")
            with replaced(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            common.say(f"written: {path.name}")
            return 0
        if find_data() is None:
            raise InputError("The labelled images are not here", "Set RAU_DATA to the folder that holds them")
        return conclude(run_sets(arguments, engine, settings, kept), arguments)
    except RauError as problem:
        return common.stop(problem)


if __name__ == "__main__":
    sys.exit(main())
