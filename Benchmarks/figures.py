"""The figures of each set, the mean over sets, and whether the targets are met."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common import Outcome, number

from rau.evaluation.baselines import BASELINES, BSPLINE, CONVEX_ADAM, COPYING
from rau.evaluation.metrics import mean
from rau.evaluation.tables import Cell, shown

MARGIN = 0.15  # Dice over the better of copying and registration, mean over sets
ABOVE = 0.75  # share of the sets
HELD_OUT_DICE = {"msd_hippocampus": 0.82, "hc18": 0.90}
PICTURE_SECONDS = 3.0  # a 2-D pair
ONE_SUBJECT = "brats"  # no other subject can be its reference
REGISTRATIONS = (BSPLINE, CONVEX_ADAM)
COLUMNS = ("set", "pairs", "failed", "rau segment", "copying", "B-spline", "ConvexAdam", "better of these", "margin")
SECONDS = ("rau s", "B-spline s", "ConvexAdam s")


@dataclass(frozen=True)
class SetFigures:
    """A set with what became of its pairs. held_out: cases of a set for training; else the set is for evaluation only.

    Means are over the pairs where the method ended well; None where there is none.
    """

    name: str
    dims: int
    held_out: bool
    outcomes: tuple[Outcome, ...]

    @property
    def title(self) -> str:
        return self.name + (" (held-out cases)" if self.held_out else "")

    @property
    def counted(self) -> bool:
        """Whether it is part of the mean over sets."""
        return not self.held_out and self.name != ONE_SUBJECT

    @property
    def failed(self) -> int:
        return sum(bool(one.error) for one in self.outcomes)

    @property
    def dice(self) -> float | None:
        return mean(one.dice for one in self.outcomes if not one.error)

    @property
    def seconds(self) -> float | None:
        return mean(one.seconds for one in self.outcomes if not one.error)

    def baseline_dice(self, name: str) -> float | None:
        return mean(one.baselines[name].dice for one in self.outcomes if name in one.baselines)

    def baseline_seconds(self, name: str) -> float | None:
        scores = [one.baselines[name] for one in self.outcomes if name in one.baselines]
        return mean(one.seconds for one in scores if not one.error)

    def baseline_failed(self, name: str) -> int:
        return sum(bool(one.baselines[name].error) for one in self.outcomes if name in one.baselines)

    def cached(self, name: str) -> bool:
        return any(one.baselines[name].cached for one in self.outcomes if name in one.baselines)

    @property
    def better(self) -> float | None:
        """The best mean of the baselines."""
        found = [self.baseline_dice(one.name) for one in BASELINES]
        return max((one for one in found if one is not None), default=None)

    @property
    def margin(self) -> float | None:
        return None if self.dice is None or self.better is None else self.dice - self.better

    def row(self) -> list[Cell]:
        dice = [self.baseline_dice(one.name) for one in (COPYING, *REGISTRATIONS)]
        seconds = [self._seconds_cell(one.name) for one in REGISTRATIONS]
        ended = len(self.outcomes) - self.failed
        return [self.title, ended, self.failed, self.dice, *dice, self.better, self.margin, self.seconds, *seconds]

    def _seconds_cell(self, name: str) -> Cell:
        seconds = self.baseline_seconds(name)
        return f"{seconds:.3f}*" if seconds is not None and self.cached(name) else seconds


@dataclass(frozen=True)
class Target:
    """what must be at least (or at most, or below) `needed`. found: None where it could not be measured: missed."""

    what: str
    found: float | None
    needed: float
    relation: str = "at least"

    @property
    def met(self) -> bool:
        if self.found is None:
            return False
        rounded = round(self.found - self.needed, 9)
        return (
            rounded >= 0 if self.relation == "at least" else rounded < 0 or (rounded == 0 and "most" in self.relation)
        )

    def line(self) -> str:
        wanted = f"{self.relation} {shown(self.needed)}"
        if self.found is None:
            return f"missed by no figure: {self.what}, {wanted}"
        told = f"{self.what} {shown(self.found)}, {wanted}"
        return f"met: {told}" if self.met else f"missed by {shown(abs(self.found - self.needed))}: {told}"


def counted(sets: Iterable[SetFigures]) -> list[SetFigures]:
    """The sets of the mean."""
    return [one for one in sets if one.counted]


def mean_row(sets: Sequence[SetFigures]) -> list[Cell]:
    """The row under the evaluation-only sets: means over sets of what each has."""
    chosen = counted(sets)
    dice = [mean(one.baseline_dice(b.name) for one in chosen) for b in (COPYING, *REGISTRATIONS)]
    seconds = [mean(one.seconds for one in chosen)]
    seconds += [mean(one.baseline_seconds(b.name) for one in chosen) for b in REGISTRATIONS]
    better, margin = mean(one.better for one in chosen), mean(one.margin for one in chosen)
    pairs, failed = sum(len(one.outcomes) - one.failed for one in chosen), sum(one.failed for one in chosen)
    title = f"mean of {len(chosen)} evaluation-only sets"
    return [title, pairs, failed, mean(one.dice for one in chosen), *dice, better, margin, *seconds]


def above(sets: Iterable[SetFigures]) -> int:
    """On how many sets of the mean it is better than copying and registration."""
    return sum(one.margin is not None and one.margin > 0 for one in counted(sets))


def targets(sets: Sequence[SetFigures], registered: bool = True) -> list[Target]:
    """Those that the sets which ran can tell. registered: False when registrations were left out on purpose."""
    found = []
    chosen = counted(sets)
    if chosen:
        margin = None if any(one.margin is None for one in chosen) else mean(one.margin for one in chosen)
        found.append(Target(f"mean margin over {len(chosen)} evaluation-only sets", margin, MARGIN))
        needed = math.ceil(ABOVE * len(chosen))
        found.append(Target(f"sets above copying and registration, of {len(chosen)}", above(sets), needed))
    for one in sets:
        if one.held_out and one.name in HELD_OUT_DICE:
            found.append(Target(f"Dice on {one.title}", one.dice, HELD_OUT_DICE[one.name]))
    for one in sets:
        if one.dims == 3:
            found += _faster(one, registered)
        else:
            found.append(Target(f"seconds a 2-D pair on {one.title}", one.seconds, PICTURE_SECONDS, "at most"))
    return found


def _faster(one: SetFigures, registered: bool) -> list[Target]:
    """Below the seconds of each registration."""
    found = []
    for baseline in REGISTRATIONS:
        seconds = one.baseline_seconds(baseline.name)
        what = f"seconds a pair on {one.title}, of {baseline.title}"
        if seconds is not None:
            found.append(Target(what, one.seconds, seconds, "below"))
        elif registered:
            found.append(Target(f"{what} (it ran on no pair)", None, 0.0, "below"))
    return found


def remarks(sets: Sequence[SetFigures]) -> list[str]:
    """What must be said beside the table: what failed, what was not computed anew, what is not in the mean."""
    lines = []
    for one in sets:
        for baseline in BASELINES:
            if one.baseline_failed(baseline.name):
                lines.append(
                    f"{baseline.title} failed on {one.baseline_failed(baseline.name)} of {len(one.outcomes)} pairs "
                    f"of {one.title}; its figures are of the others"
                )
    if any(one.cached(baseline.name) for one in sets for baseline in BASELINES):
        lines.append("* measured in an earlier run, kept in the file of --baselines")
    if any(one.name == ONE_SUBJECT for one in sets):
        lines.append(f"{ONE_SUBJECT} has a single subject, so copying is the truth: left out of the mean over sets")
    return lines


def summary(sets: Sequence[SetFigures]) -> str:
    """All in one line."""
    chosen, parts = counted(sets), []
    if chosen:
        margin = mean(one.margin for one in chosen)
        signed = "–" if margin is None else f"{margin:+.3f}"
        told = f"mean Dice {number(mean(one.dice for one in chosen))}, margin {signed}, above on {above(sets)} of"
        parts.append(f"{told} {len(chosen)} evaluation-only sets")
    parts += [f"{one.name} held-out {number(one.dice)}" for one in sets if one.held_out]
    ran = sum(not one.failed for one in sets)
    return "; ".join([*parts, f"{ran} of {len(sets)} sets ran"])
