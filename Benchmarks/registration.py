"""How well are references laid onto targets? Dice of laid and true labels on validation pairs, 2-D and 3-D.

The affine search alone; with demons behind it; and as it is, with large displacements that are tried before the demons
(`rau.references.deformation`). Every third picture also moved by a fifth of its sides. Registration only; no network,
no set that is for evaluation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from unittest.mock import patch

import common
import numpy as np
import validation_tasks
import validation_volumes
from validation_tasks import Task

from rau.evaluation.metrics import dice
from rau.evaluation.tables import Cell, print_table
from rau.references import deformation, registration
from rau.volume.orientation import canonical
from rau.volume.window import to_uint8

MOVED = 0.2  # of the sides, down and to the left
GAIN = 0.05  # mean Dice of pictures over groups that trying large displacements must bring; of volumes none may be lost
DEMONS = ((12_000, 60), (80_000, 60), (300_000, 40))  # levels of volumes without a search before them
WAYS: dict[str, Callable[[ExitStack], None]] = {
    "affine": lambda stack: changed(stack, registration, deformation=lambda fixed, moving: []),
    "demons": lambda stack: changed(stack, deformation, SEARCHED=(), FLAT_SEARCHED=(), LEVELS=DEMONS),
    "as it is": lambda stack: None,
}


def changed(stack: ExitStack, module: object, **names: object) -> None:
    for name, value in names.items():
        stack.enter_context(patch.object(module, name, value))


def pairs(quick: bool) -> Iterator[Task]:
    """Pictures of the validation tasks and slices of real volumes, then the volumes to choose by."""
    pictures = chain(validation_tasks.tasks(quick=quick), validation_tasks.slices())
    seen: set[str] = set()
    for one in pictures:
        if one.target.array.shape[0] == 1 and not (quick and one.group in seen):
            seen.add(one.group)
            yield one
    yield from validation_volumes.tasks(quick)


def moved(array: np.ndarray) -> np.ndarray:
    """(S, R, C, ...) down and to the left by MOVED of the sides, 0 where nothing comes from."""
    down, left = (int(MOVED * size) for size in array.shape[1:3])
    found = np.zeros_like(array)
    found[:, down:, : array.shape[2] - left] = array[:, : array.shape[1] - down, left:]
    return found


def laid(task: Task, away: bool = False) -> dict[str, tuple[float, float]]:
    """Way -> mean Dice of the structures that the target shows, seconds of the processor. away: the target moved."""
    image, grid, turned = canonical(to_uint8(task.reference.image), task.reference.image.geometry)
    target, place, back = canonical(to_uint8(task.target), task.target.geometry)
    labels, truth = turned.forth(task.reference.labels.array), back.forth(task.truth.array)
    if away:
        target, truth = moved(target), moved(truth)
    values = [int(v) for v in np.unique(labels) if v and (truth == v).any()]
    found: dict[str, tuple[float, float]] = {}
    for name, change in WAYS.items() if values else ():
        with ExitStack() as stack:
            change(stack)
            start = time.process_time()
            result = registration.register(target, place.spacing, image, labels, grid.spacing).labels
            spent = time.process_time() - start
        found[name] = (float(np.mean([dice(result == v, truth == v) or 0.0 for v in values])), spent)
    return found


def main() -> int:
    arguments = common.options(__doc__).parse_args()
    scores: dict[str, dict[str, list[dict[str, tuple[float, float]]]]] = {}
    for number, task in enumerate(pairs(arguments.quick)):
        flat = task.target.array.shape[0] == 1
        for away in (False, True) if flat and number % 3 == 0 else (False,):
            found = laid(task, away)
            if found:
                kind = "volumes" if not flat else "pictures, moved" if away else "pictures"
                scores.setdefault(kind, {}).setdefault(task.group, []).append(found)
                told = "; ".join(f"{name} {one:.3f}" for name, (one, _) in found.items())
                common.say(f"  {task.group}{' (moved)' if away else ''}: {told}")
    means: dict[str, dict[str, float]] = {}
    for kind, groups in scores.items():
        table: list[list[Cell]] = [
            [group, len(rows), *(float(np.mean([row[name][0] for row in rows])) for name in WAYS)]
            for group, rows in groups.items()
        ]
        means[kind] = {name: float(np.mean([row[2 + k] for row in table])) for k, name in enumerate(WAYS)}
        seconds = [np.mean([row[name][1] for rows in groups.values() for row in rows]) for name in WAYS]
        table.append(["mean of groups", sum(map(len, groups.values())), *means[kind].values()])
        table.append(["processor seconds a pair", None, *map(float, seconds)])
        print_table(kind.capitalize(), ["pairs of", "count", *WAYS], table)
    common.write_json(arguments.json, means)
    gains = {kind: one["as it is"] - one["demons"] for kind, one in means.items()}
    told = ", ".join(f"{kind} {gain:+.3f}" for kind, gain in gains.items())
    common.say(f"large displacements, tried before the demons: mean Dice of laid labels {told}")
    missed = gains.get("pictures", 0.0) < GAIN or gains.get("volumes", 0.0) < 0
    return int(arguments.check and not arguments.quick and missed)


if __name__ == "__main__":
    sys.exit(main())
