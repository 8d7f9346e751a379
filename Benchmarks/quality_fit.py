"""Fit the estimate of quality: a line and boosted trees on evidence, intervals from sources that were left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from quality_runs import Run

from rau.quality.estimate import LEVEL, RANGE, numbers_of

BINS = 6  # of the expected Dice, for the interval
RIDGE = 30.0  # penalty of the line's slopes
SPOILT = 0.3  # weight of a pair that was made bad
# Chosen by the cross-validation over sources that `quality.py --fit` prints.
TREES: dict[str, Any] = {
    "n_estimators": 120,
    "max_depth": 2,
    "learning_rate": 0.05,
    "subsample": 0.6,
    "max_features": 0.4,
    "min_samples_leaf": 12,
    "random_state": 0,
}


@dataclass(frozen=True)
class Table:
    """N structures of finished runs. x: (N, D) numbers, NaN where one is not known. y: (N,) true Dice.

    source: (N,) what is left out together. spoilt: (N,) whether the pair was made bad.
    """

    names: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    source: np.ndarray
    spoilt: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Sources count by the root of their rows, spoilt pairs less."""
        counts = {source: (self.source == source).sum() for source in np.unique(self.source)}
        weights = np.array([1 / np.sqrt(counts[source]) for source in self.source])
        weights = weights * np.where(self.spoilt, SPOILT, 1.0)
        return weights / weights.mean()

    @property
    def fill(self) -> np.ndarray:
        """(D,) medians of what is known; 0 where nothing is."""
        known = np.isfinite(self.x)
        return np.array([np.median(column[here]) if here.any() else 0.0 for column, here in zip(self.x.T, known.T)])

    @property
    def filled(self) -> np.ndarray:
        return np.where(np.isfinite(self.x), self.x, self.fill)


def table_of(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        rows += [(numbers_of(row.evidence), row.dice, run.source, bool(run.spoilt)) for row in run.rows]
    names = tuple(sorted({name for numbers, *_ in rows for name in numbers}))
    x = np.array([[numbers.get(name, np.nan) for name in names] for numbers, *_ in rows])
    y, source, spoilt = (np.array([row[k] for row in rows]) for k in (1, 2, 3))
    return Table(names, x, y, source, spoilt)


@dataclass(frozen=True)
class Fitted:
    """trees: of scikit-learn. mean, deviation, slope: (D,) and intercept of the line."""

    trees: Any
    mean: np.ndarray
    deviation: np.ndarray
    slope: np.ndarray
    intercept: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        scaled = np.clip((x - self.mean) / self.deviation, -RANGE, RANGE)
        return np.clip((self.trees.predict(x) + scaled @ self.slope + self.intercept) / 2, 0, 1)


def grown(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Fitted:
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import Ridge

    mean, deviation = x.mean(0), x.std(0) + 1e-6
    line = Ridge(RIDGE).fit(np.clip((x - mean) / deviation, -RANGE, RANGE), y, sample_weight=weights)
    trees = GradientBoostingRegressor(**TREES).fit(x, y, sample_weight=weights)
    return Fitted(trees, mean, deviation, line.coef_, float(line.intercept_))


def left_out(table: Table) -> np.ndarray:
    """(N,) expected Dice of each structure by trees that have not seen its source."""
    x, weights, found = table.filled, table.weights, np.zeros(len(table.y))
    for source in np.unique(table.source):
        others = table.source != source
        found[~others] = grown(x[others], table.y[others], weights[others]).predict(x[~others])
    return found


def interval(expected: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """centres, below, above of `rau.quality.estimate.Coefficients`: the shortest conformal intervals, by bins."""
    order = np.argsort(expected, kind="stable")
    found: dict[str, list[float]] = {"centres": [], "below": [], "above": []}
    for bin_ in np.array_split(order, min(BINS, len(order))):
        low, high = shortest(truth[bin_] - expected[bin_], LEVEL)
        found["centres"].append(float(expected[bin_].mean()))
        found["below"].append(max(0.0, -low))
        found["above"].append(max(0.0, high))
    return found


def shortest(residuals: np.ndarray, level: float) -> tuple[float, float]:
    """The shortest interval that holds `level` of n + 1 exchangeable numbers (all n of few)."""
    ordered = np.sort(residuals)
    count = min(int(np.ceil((len(ordered) + 1) * level)), len(ordered))
    first = int((ordered[count - 1 :] - ordered[: len(ordered) - count + 1]).argmin())
    return float(ordered[first]), float(ordered[first + count - 1])


def fitted(table: Table) -> tuple[dict[str, Any], np.ndarray]:
    """The content of coefficients.json, and the expected Dice of each structure with its source left out.

    The interval is that of pairs as they are: what is asked of it in use.
    """
    model, expected = grown(table.filled, table.y, table.weights), left_out(table)
    plainly = ~table.spoilt
    bins = interval(expected[plainly], table.y[plainly])
    return {
        "features": list(table.names),
        "fill": {name: rounded(v) for name, v in zip(table.names, table.fill)},
        "start": rounded(float(model.trees.init_.constant_.ravel()[0])),
        "trees": [plain(one.tree_, TREES["learning_rate"]) for one in model.trees.estimators_.ravel()],
        **{name: [rounded(v) for v in getattr(model, name)] for name in ("mean", "deviation", "slope")},
        "intercept": rounded(model.intercept),
        **{name: [rounded(v) for v in numbers] for name, numbers in bins.items()},
    }, expected


def plain(tree: Any, rate: float) -> dict[str, list[Any]]:
    """A tree of scikit-learn as lists (`rau.quality.estimate.Tree`); leaves are multiplied by the rate."""
    leaf = tree.children_left < 0
    return {
        "feature": np.where(leaf, -1, tree.feature).tolist(),
        "threshold": [0.0 if end else rounded(v) for end, v in zip(leaf, tree.threshold)],
        "left": np.where(leaf, -1, tree.children_left).tolist(),
        "right": np.where(leaf, -1, tree.children_right).tolist(),
        "value": [rounded(rate * v) if end else 0.0 for end, v in zip(leaf, tree.value.ravel())],
    }


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def text_of(told: dict[str, Any]) -> str:
    """As JSON, a tree a line."""
    trees = ",\n  ".join(json.dumps(one, separators=(",", ":")) for one in told["trees"])
    rest = {name: value for name, value in told.items() if name != "trees"}
    body = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in rest.items())
    return f'{{\n{body},\n "trees": [\n  {trees}\n ]\n}}\n'
