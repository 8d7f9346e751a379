"""Do structural priors correct more than they spoil? Dice with odd pieces flagged alone and with them moved.

On validation tasks, never on an evaluation set: the tasks that the estimate of quality is fitted on, as they are and
spoilt (shifted, mirrored, negative, ...; `quality_tasks.py`). Each case is run once with `priors: flag`; then the rule
of `priors: correct` (`rau.quality.correcting`) is laid on its result. A piece was rightly moved when most of its voxels
do not belong to the structure that lost it. The default of the setting is the way that this shows to be better.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import common
import numpy as np
from quality_runs import Finished, finish
from quality_tasks import fit_tasks
from validation_tasks import Task

from rau.errors import RauError
from rau.evaluation.datasets import find_data
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.quality.correcting import corrected, pieces_of
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap

QUICK = 8  # tasks of --quick
LOSS = 0.001  # of mean Dice that `--check` lets pass
RIGHT = 0.5  # share of the moves that have to be right


@dataclass(frozen=True)
class Outcome:
    """Of one task. before, after: mean Dice; None where nothing is true. moved: pieces; right: those moved rightly.

    given: voxels that another structure took over; given_right: those that are its own.
    """

    key: str
    source: str
    spoilt: str
    before: float | None
    after: float | None
    moved: int
    right: int
    given: int
    given_right: int


def outcome(key: str, source: str, spoilt: str, task: Task, engine: Engine, settings: SegmentSettings) -> Outcome:
    """A task run, and corrected."""
    done = finish([task.reference], task.target, engine, settings.model_copy(update={"priors": "flag"}))
    after = corrected(done.case, done.votes, done.guide, done.cues, done.labels, settings.presence_threshold)[0]
    scores = [mean_of(dice_of_structures(task.truth, one, done.case.structures)) for one in (done.labels, after)]
    moved = moves(done, after, task.truth)
    rights = sum(wrong > 0.5 for wrong, _, _ in moved)
    given, given_right = (sum(one[k] for one in moved) for k in (1, 2))
    return Outcome(key, source, spoilt, scores[0], scores[1], len(moved), rights, given, given_right)


def moves(done: Finished, after: LabelMap, truth: LabelMap) -> list[tuple[float, int, int]]:
    """Of each piece moved: share of its voxels that were wrong, voxels given to others, those that are theirs."""
    names = {one.name.strip().lower(): one.value for one in done.case.structures}
    true = np.zeros(truth.array.shape, np.uint16)
    for one in truth.structures:
        true[truth.array == one.value] = names.get(one.name.strip().lower(), 0)
    found = []
    for structure in done.case.structures:
        lost = (done.labels.array == structure.value) & (after.array != structure.value)
        if not lost.any():
            continue
        whole = tuple(slice(0, n) for n in lost.shape)
        for piece in pieces_of(lost.astype(np.uint8), 1, whole):
            now, really = after.array[piece.box][piece.mask], true[piece.box][piece.mask]
            took = now > 0
            wrong = float((really != structure.value).mean())
            found.append((wrong, int(took.sum()), int((now[took] == really[took]).sum())))
    return found


def tell(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Tables by source, of tasks as they are and spoilt; the figures of all together."""
    for spoilt in (False, True):
        rows: list[list[Any]] = []
        of_kind = [one for one in outcomes if bool(one.spoilt) == spoilt]
        for source in dict.fromkeys(one.source for one in of_kind):
            rows.append(row_of(source, [one for one in of_kind if one.source == source]))
        if len(rows) > 1:
            rows.append(row_of("all", of_kind))
        columns = ["tasks of", "tasks", "flag", "correct", "pieces moved", "rightly"]
        if rows:
            print_table(f"Mean Dice of {'spoilt tasks' if spoilt else 'tasks as they are'}", columns, rows)
    before, after = (mean([getattr(one, name) for one in outcomes]) for name in ("before", "after"))
    moved, right = sum(one.moved for one in outcomes), sum(one.right for one in outcomes)
    given, given_right = sum(one.given for one in outcomes), sum(one.given_right for one in outcomes)
    return {
        "before": before,
        "after": after,
        "moved": moved,
        "right": right / moved if moved else None,
        "given_right": given_right / given if given else None,
        "better": sum((one.after or 0) > (one.before or 0) + 1e-9 for one in outcomes),
        "worse": sum((one.after or 0) < (one.before or 0) - 1e-9 for one in outcomes),
    }


def row_of(name: str, outcomes: Sequence[Outcome]) -> list[Any]:
    before, after = (mean([getattr(one, way) for one in outcomes]) for way in ("before", "after"))
    moved, right = sum(one.moved for one in outcomes), sum(one.right for one in outcomes)
    return [name, str(len(outcomes)), before, after, str(moved), str(right)]


def measured(arguments: Namespace) -> list[Outcome]:
    """All tasks. Raises RauError: no model."""
    engine, settings = common.engine_for(arguments)
    tasks = fit_tasks(find_data(), 1 if arguments.quick else arguments.each)
    found = []
    for one in islice(tasks, QUICK if arguments.quick else None):
        task = one.make()
        if task is None:
            continue
        found.append(outcome(one.key, one.source, one.spoilt, task, engine, settings))
        last = found[-1]
        scores = f"{common.number(last.before)} -> {common.number(last.after)}"
        common.say(f"  {one.key}: {scores}, {last.moved} moved, {last.right} of them rightly")
    return found


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--each", type=int, default=3, help="pairs of a family of random anatomies (default 3)")
    arguments = parser.parse_args()
    try:
        outcomes = measured(arguments)
        told = tell(outcomes)
        common.write_json(arguments.json, {"all": told, "tasks": [asdict(one) for one in outcomes]})
    except RauError as problem:
        return common.stop(problem)
    common.say(
        f"flag {common.number(told['before'])}, correct {common.number(told['after'])}; {told['moved']} pieces moved, "
        f"{common.number(told['right'])} of them rightly; {told['better']} tasks better, {told['worse']} worse"
    )
    gained = (told["after"] or 0) >= (told["before"] or 0) - LOSS
    return int(arguments.check and not (gained and (told["right"] is None or told["right"] >= RIGHT)))


if __name__ == "__main__":
    sys.exit(main())
