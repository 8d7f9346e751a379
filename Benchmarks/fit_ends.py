"""Fit where structures end along the slices (`rau.assembly.ends`): odds of presence from what the network says.

On volumes that may be trained on, hippocampi kept for validation among them, and on synthetic patients; never on an
evaluation set. Pairs of every group are dealt into two halves: one is fitted, the other tells how often presence is
right, by the network's own presence, by the coefficients in use and by the new ones, which come from both halves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import common
import numpy as np
from validation_tasks import Task, volumes

from rau.assembly import ends
from rau.assembly.labels import PlaneVotes
from rau.evaluation.datasets import find_data, training_cases
from rau.evaluation.tables import print_table
from rau.events import ignore
from rau.models.engine import Engine
from rau.preparation import prepare
from rau.sam.propagation import Recipe, segment_plane
from rau.settings import SegmentSettings

MOST = 12  # structures of a task
GAIN = 0.01  # balanced accuracy over the network's own presence, on the half that was not fitted


@dataclass(frozen=True)
class Row:
    """A structure in the slices of a plane in which the network was asked for it.

    numbers: (T, 6), see `rau.assembly.ends.Signs`; truth: (T,) bool, whether it is there; half: 0 or 1.
    """

    group: str
    half: int
    numbers: np.ndarray
    truth: np.ndarray


def pairs(quick: bool) -> Iterator[Task]:
    """Volumes of different patients, some of every group."""
    data = find_data()
    if data is not None:
        heads = training_cases("msd_hippocampus", data)[-6:]
        for one, other in list(permutations(heads, 2))[: 1 if quick else 12]:
            yield volumes("hippocampus", one, other)
        if not quick:
            for one, other in permutations(training_cases("msd_prostate", data), 2):
                yield volumes("prostate", one, other)
            for one, other in permutations(training_cases("totalsegmentator", data)[:2], 2):
                yield volumes("trunk", one, other)
    yield from patients(1 if quick else 3)


def patients(count: int) -> Iterator[Task]:
    """Synthetic patients with seeds of their own."""
    from rau.training.patient import patient_pair

    for seed in range(300, 300 + count):
        reference, target = patient_pair(seed)
        yield Task("patients", reference, *target)


def rows_of(task: Task, number: int, engine: Engine, settings: SegmentSettings) -> Iterator[Row]:
    """What the network alone says in every plane; the structures that are there in most slices first."""
    shown = set(np.unique(task.reference.labels.array)) & set(np.unique(task.truth.array))
    kept = [one for one in task.reference.labels.structures if one.value in shown]
    chosen = np.random.default_rng(number).permutation(len(kept))[:MOST]
    names = tuple(kept[int(i)].name for i in sorted(chosen))
    asked = settings.model_copy(update={"structures": names})
    case = prepare([task.reference], task.target, asked, engine, ignore)
    truth = case.orientation.forth(task.truth.array)
    by_name = {one.name.lower(): one.value for one in task.truth.structures}
    for plane in case.planes:
        vote = PlaneVotes(case.values, plane.images.array.shape[:3], plane.images.axis, case.single)
        for one in segment_plane(engine.segmenter, plane.images, plane.matches, Recipe()):
            vote.add(one)
        for column, structure in enumerate(case.structures):
            value = by_name.get(structure.name.lower())
            there = np.moveaxis(truth == value, plane.images.axis, 0).any((1, 2))
            signs = vote.signs(column)
            if signs.asked.any() and value is not None:
                yield Row(task.group, number % 2, signs.numbers()[signs.asked], there[signs.asked])


def stacked(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers (N, 6), truth (N,) and weights (N,): groups count alike, and in each present and absent slices."""
    numbers = np.concatenate([row.numbers for row in rows])
    truth = np.concatenate([row.truth for row in rows])
    groups = np.repeat([row.group for row in rows], [len(row.truth) for row in rows])
    weights = np.zeros(len(truth))
    for group in np.unique(groups):
        for there in (False, True):
            here = (groups == group) & (truth == there)
            weights[here] = 1 / max(1, here.sum())
    return numbers, truth, weights / weights.mean()


def fitted(rows: Sequence[Row]) -> np.ndarray:
    """(6,) coefficients."""
    from sklearn.linear_model import LogisticRegression

    numbers, truth, weights = stacked(rows)
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000)
    return np.asarray(model.fit(numbers, truth, sample_weight=weights).coef_[0])


def accuracy(rows: Sequence[Row], coefficients: np.ndarray) -> float:
    """Balanced over groups and over present and absent slices."""
    numbers, truth, weights = stacked(rows)
    return float(np.average((numbers @ coefficients > 0) == truth, weights=weights))


def main() -> int:
    parser = common.options(__doc__)
    arguments = parser.parse_args()
    engine, settings = common.engine_for(arguments)
    rows: list[Row] = []
    for number, task in enumerate(pairs(arguments.quick)):
        rows += rows_of(task, number, engine, settings)
    if arguments.quick:  # one task of each group: its structures are dealt, not the tasks
        rows = [replace(row, half=i % 2) for i, row in enumerate(rows)]
    halves = [[row for row in rows if row.half == half] for half in (0, 1)]
    own = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    choices = {"network's presence": own, "in use": np.array(ends.COEFFICIENTS), "fitted": fitted(halves[0])}
    scores = {name: accuracy(halves[1], one) for name, one in choices.items()}
    print_table("Presence along the slices", ["by", "balanced accuracy"], [[k, v] for k, v in scores.items()])
    common.say(f"COEFFICIENTS = ({', '.join(f'{v:.2f}' for v in fitted(rows))})")
    gain = scores["in use"] - scores["network's presence"]
    common.say(f"ends in use: {gain:+.3f} balanced accuracy over the network's presence, {len(rows)} structures")
    return int(arguments.check and gain < GAIN)


if __name__ == "__main__":
    sys.exit(main())
