"""One reference, one target, on every set that training may not see, and on the held-out cases of two that it may.

Beside `rau segment` stand copying the mask and registration: affine + B-spline by SimpleITK, and ConvexAdam on volumes.
Pairs by the rule of `rau.evaluation.pairs`. Structures scored: those of the reference; absent in truth and result: left
out; absent in one of them: 0. The set brats has one subject: its FLAIR image is the reference of its T1 with contrast,
copying the mask is then the truth itself, and it is no part of the mean over sets.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import figures
import peak_memory
from scores import Kept, Score
from sets import pairs_for, spread, wanted_sets

from rau.errors import InputError, RauError
from rau.evaluation.baselines import BASELINES, BSPLINE, CONVEX_ADAM, Baseline
from rau.evaluation.datasets import load_set
from rau.evaluation.tables import print_table
from rau.volume.volume import Volume

QUICK_VOXELS = 500_000  # larger volumes are not registered by --quick


def all_baselines(target: Volume) -> Sequence[Baseline]:
    """Each that takes such an image."""
    return [one for one in BASELINES if one.takes(target)]


def quick_baselines(target: Volume) -> Sequence[Baseline]:
    """Without B-splines on volumes, and without any registration of large ones."""
    slices, rows, columns = target.geometry.shape
    left_out = {BSPLINE} if slices > 1 else set()
    if slices * rows * columns > QUICK_VOXELS:
        left_out |= {BSPLINE, CONVEX_ADAM}
    return [one for one in all_baselines(target) if one not in left_out]


def run_set(name: str, arguments: Namespace, engine: Any, settings: Any, kept: Kept) -> figures.SetFigures:
    """Every pair of the set, told as it ends; one failed outcome where the set cannot be read."""
    baselines = quick_baselines if arguments.quick else all_baselines
    dims, held_out, outcomes, ended = 2, False, [], []
    try:
        told = load_set(name)
        dims, held_out = told.dims, told.trainable
        pairs = spread(pairs_for(name), arguments.limit)
        if not pairs:
            outcomes.append(common.Outcome(name, error="no pair of two subjects"))
    except RauError as problem:
        pairs = []
        outcomes.append(common.Outcome(name, error=str(problem)))
    common.say(figures.SetFigures(name, dims, held_out, ()).title)
    for one in outcomes:
        common.say(one.line())
    for pair in pairs:
        outcome, result = common.run_pair(pair, engine, settings, baselines, kept)
        common.say(outcome.line())
        outcomes.append(outcome)
        if arguments.pictures and result is not None:
            ended.append((pair, outcome, result.labels))
    if ended:
        draw(ended, arguments.pictures / f"{name}.png")
    return figures.SetFigures(name, dims, held_out, tuple(outcomes))


def draw(ended: list[Any], path: Path) -> None:
    """The picture of a set. One that cannot be made is told, and the figures are still printed."""
    from pictures import write_pictures

    try:
        write_pictures(ended, path)
    except RauError as problem:
        common.say(f"  no picture: {problem}")


def print_sets(sets: Sequence[figures.SetFigures]) -> None:
    """The evaluation-only sets, their mean, then the held-out cases; under it what must be said."""
    rows = [one.row() for one in sets if not one.held_out]
    if figures.counted(sets):
        rows.append(figures.mean_row(sets))
    rows += [one.row() for one in sets if one.held_out]
    print_table("Mean Dice and seconds a pair by set", [*figures.COLUMNS, *figures.SECONDS], rows)
    for line in figures.remarks(sets):
        common.say(line)


def print_memory(names: Sequence[str], arguments: Namespace) -> dict[str, dict[str, float | None]]:
    """Peak memory of the first pair of each set, MB, each method in a process of its own."""
    options = ["--model", arguments.model, "--device", arguments.device, "--planes", arguments.planes]
    found: dict[str, dict[str, float | None]] = {}
    for name in names:
        found[name] = {}
        for method in peak_memory.METHODS:
            found[name][method], error = peak_memory.measured(name, 0, method, options)
            if error:
                common.say(f"{name}, memory of {method}: {error}")
    rows = [[name, *(None if mb is None else round(mb) for mb in one.values())] for name, one in found.items()]
    print_table("Peak memory, MB", ["set", "rau segment", "B-spline", "ConvexAdam"], rows)
    return found


def judge(sets: Sequence[figures.SetFigures], registered: bool) -> bool:
    """Print every target, met or missed. Whether all are met, and every set ran."""
    broken = [one.title for one in sets if one.failed]
    targets = figures.targets(sets, registered)
    common.say("Targets")
    for one in targets:
        common.say(f"  {one.line()}")
    common.say(
        f"  missed: did not run to the end: {', '.join(broken)}" if broken else "  met: every set ran to its end"
    )
    return not broken and all(one.met for one in targets)


def parser() -> ArgumentParser:
    made = common.options(__doc__)
    made.add_argument("--sets", help="names of sets, with commas between them (default: all)")
    made.add_argument("--limit", type=int, default=0, help="pairs a set at the most (default: all)")
    made.add_argument("--baselines", type=Path, metavar="FILE", help="keep the baselines' scores in this JSON file")
    made.add_argument("--pictures", type=Path, metavar="FOLDER", help="write a picture of each set there")
    made.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="run nothing: judge these runs as one")
    made.add_argument("--memory", action="store_true", help="measure peak memory too, one pair a set")
    return made


def joined(paths: Sequence[Path]) -> list[figures.SetFigures]:
    """The sets of earlier runs from their JSON files, to be judged as one: evaluation-only sets by name, then held-out.

    Raises InputError when a file is no such file, or the runs were made by different models or programs.
    """
    found, versions = {}, set()
    for path in paths:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            versions.add(json.dumps(told["versions"], sort_keys=True))
            for name, outcomes in told["sets"].items():
                made = tuple(
                    common.Outcome(**{**one, "baselines": {k: Score(**v) for k, v in one["baselines"].items()}})
                    for one in outcomes
                )
                known = load_set(name)
                found[name] = figures.SetFigures(name, known.dims, known.trainable, made)
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path.name} holds no figures of evaluation_sets.py", "Give what --json wrote") from None
    if len(versions) > 1:
        raise InputError("The figures come from different models or versions", "Run the sets again with one of them")
    return sorted(found.values(), key=lambda one: (one.held_out, one.name))


def prepared(arguments: Namespace) -> tuple[list[str], Kept]:
    """Sets and kept scores; the folder for pictures is made. Raises InputError."""
    if arguments.quick:
        arguments.limit, arguments.planes = 1, "acquisition"
    if arguments.pictures:
        try:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise InputError(f"{arguments.pictures.name} cannot be made", "Choose another folder") from None
    return wanted_sets(arguments.sets, arguments.quick), Kept(arguments.baselines)


def main() -> int:
    arguments = parser().parse_args()
    if arguments.join:
        try:
            return concluded(joined(arguments.join), arguments)
        except RauError as problem:
            return common.stop(problem)
    try:
        names, kept = prepared(arguments)
        engine, settings = common.engine_for(arguments)
        sets = [run_set(name, arguments, engine, settings, kept) for name in names]
        peak = print_memory(names, arguments) if arguments.memory else {}
        told = {one.name: [asdict(outcome) for outcome in one.outcomes] for one in sets}
        versions = {**engine.versions(), "baselines": [one.version for one in BASELINES]}
        common.write_json(arguments.json, {"sets": told, "memory_mb": peak, "versions": versions})
    except RauError as problem:
        return common.stop(problem)
    return concluded(sets, arguments)


def concluded(sets: Sequence[figures.SetFigures], arguments: Namespace) -> int:
    """Print table, targets and the figure; the exit status."""
    print_sets(sets)
    good = judge(sets, registered=not arguments.quick)
    common.say(figures.summary(sets))
    return int(arguments.check and not good)


if __name__ == "__main__":
    sys.exit(main())
