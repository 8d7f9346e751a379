"""Expected Dice of a structure with a 90 % interval, from its evidence.

The mean of a ridge regression and of gradient boosted trees (Friedman, Annals of Statistics 2001), written as numbers
in `coefficients.json` by `Benchmarks/quality.py --fit`. Interval: split conformal prediction (Vovk et al., Algorithmic
Learning in a Random World, 2005) by bins of the expected Dice, the shortest that holds; the residuals are those of
sources left out of the fit, each in turn, so that they tell of data of another kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np

from rau.errors import ModelError
from rau.quality.evidence import StructureEvidence

GREEN, RED = 0.65, 0.4  # expected Dice: green from the one on, red below the other (by left-out sources)
LEVEL = 0.9  # of the interval
RANGE = 3.0  # deviations from the mean beyond which a number is cut off for the line
# What is weighed. Left out, though known: what mostly tells one kind of data from another (sizes in the picture, number
# of structures, similarity, likeness, pieces): with them sources that were not fitted on were estimated worse.
PLAIN = (
    *("iou", "presence", "correlation", "trust", "fineness", "network_expert", "network_prior", "expert_prior"),
    *("final_network", "final_expert", "final_prior", "planes", "soft", "doubt", "size_ratio", "extent_ratio"),
    *("smoothness", "shift", "reverse", "broken"),
)
ABSOLUTE = ("size_ratio", "extent_ratio")  # whose size alone is weighed too

TREE = ("feature", "threshold", "left", "right", "value")
LISTS = ("mean", "deviation", "slope", "centres", "below", "above")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """expected, low, high: Dice, 0 to 1; the truth is expected between low and high in LEVEL of the cases.

    light: "green" (expected at least GREEN), "red" (expected below RED), else "amber".
    """

    expected: float
    low: float
    high: float

    @property
    def light(self) -> str:
        if self.expected < RED:
            return "red"
        return "green" if self.expected >= GREEN else "amber"


@dataclass(frozen=True)
class Tree:
    """A regression tree as arrays: nodes go left where their feature is at most the threshold; a leaf's feature: -1."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def of(self, x: Sequence[float]) -> float:
        node = 0
        while self.feature[node] >= 0:
            node = self.left[node] if x[self.feature[node]] <= self.threshold[node] else self.right[node]
        return self.value[node]


@dataclass(frozen=True)
class Coefficients:
    """features: names, in the order of the trees and the line. fill: what stands for a number that is not there.

    start: before the trees. mean, deviation, slope, intercept: of the line, on features in deviations from the mean,
    cut off at RANGE of them. centres, below, above: of the interval's bins: expected Dice, and how far the truth lies
    below and above it.
    """

    features: tuple[str, ...]
    fill: Mapping[str, float]
    start: float
    trees: tuple[Tree, ...] = field(repr=False)
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    slope: tuple[float, ...]
    intercept: float
    centres: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]

    def expected(self, numbers: Mapping[str, float]) -> float:
        x = [numbers.get(name, self.fill[name]) for name in self.features]
        scaled = np.clip((np.array(x) - self.mean) / self.deviation, -RANGE, RANGE)
        line = self.intercept + float(scaled @ np.array(self.slope))
        return float(np.clip((line + self.start + sum(tree.of(x) for tree in self.trees)) / 2, 0, 1))

    def estimate(self, numbers: Mapping[str, float]) -> Estimate:
        """numbers: of `numbers_of`."""
        return self.interval(self.expected(numbers))

    def interval(self, expected: float) -> Estimate:
        """An expected Dice with the interval that goes with it."""
        below, above = (float(np.interp(expected, self.centres, one)) for one in (self.below, self.above))
        low, high = (float(np.clip(v, 0, 1)) for v in (expected - below, expected + above))
        return Estimate(expected, min(low, expected), max(high, expected))


def numbers_of(one: StructureEvidence) -> Numbers:
    """The evidence that is weighed as numbers by name, without what is not known."""
    found: Numbers = {}
    for name in PLAIN:
        number = getattr(one, name)
        if number is not None and np.isfinite(number):
            found[name] = float(number)
            if name in ABSOLUTE:
                found[f"off {name}"] = abs(float(number))
    return found


def estimates(case: Sequence[StructureEvidence]) -> dict[int, Estimate]:
    """By label value. Raises ModelError when the coefficients are damaged."""
    return {one.value: coefficients().estimate(numbers_of(one)) for one in case}


@lru_cache(maxsize=1)
def coefficients() -> Coefficients:
    """Those of the package. Raises ModelError when they are missing or damaged."""
    try:
        return parsed(files("rau.quality").joinpath("coefficients.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelError("The coefficients of the quality estimate are missing", "Install RAUSlicer again") from None


def parsed(text: str) -> Coefficients:
    """Coefficients from JSON. Raises ModelError."""
    try:
        told = json.loads(text)
        numbers = {name: tuple(float(v) for v in told[name]) for name in LISTS}
        trees = (Tree(*(tuple(one[name]) for name in TREE)) for one in told["trees"])
        return Coefficients(
            features=tuple(told["features"]),
            fill={name: float(v) for name, v in told["fill"].items()},
            start=float(told["start"]),
            trees=tuple(trees),
            intercept=float(told["intercept"]),
            **numbers,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError("The coefficients of the quality estimate are damaged", "Install RAUSlicer again") from None
