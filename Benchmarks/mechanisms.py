"""What the closer look and the one-shot adaptation bring: each mechanism off and on, by size of the structure.

On the evaluation sets, or with --tasks on the validation tasks, where they were chosen. One run of everything before a
mechanism serves all its variants; seconds are of all that a variant needs. Looks: one is the whole slice alone, two
adds a crop of each small structure, three another; "prompted": the crop comes with what is known so far. Adaptation
without training (papers.md B3): by the odds of place and likeness, or SAM2 led by points, alone or put in the place of
the registered prior of the default. Structures that a variant leaves out, or draws in vain, count as 0.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import common
import mechanisms_variants as variants
from mechanisms_variants import Row
from sets import pairs_for, spread, wanted_sets
from validation_tasks import tasks

from rau.errors import RauError
from rau.evaluation.datasets import load_set
from rau.evaluation.metrics import mean
from rau.evaluation.tables import print_table
from rau.references.reference import Reference
from rau.volume.volume import LabelMap, Volume

PARTS = ("look", "prototype")
QUICK = ("medscribble", "wbc", "msd_hippocampus")
SIZES = (("below 0.5 %", 0.0, 0.005), ("0.5 to 2 %", 0.005, 0.02), ("2 to 10 %", 0.02, 0.1), ("above", 0.1, 1.01))
SMALL = 0.02  # of the slice: what the closer look is for
GAIN = 0.05  # Dice that it should bring there
OVER_COPYING = 0.15  # Dice that adaptation alone should bring over copying on pictures
LOSS = 0.002  # mean Dice that a default may lose to rounding

Item = tuple[str, str, tuple[Reference, Volume, LabelMap]]


def items(arguments: Namespace) -> Iterator[Item]:
    """(group, pair, what was read)."""
    if arguments.tasks:
        taken: dict[str, int] = {}
        for one in tasks(quick=arguments.quick):
            flat = len(one.target.array) == 1
            if (arguments.flat and not flat) or (arguments.volumes and flat):
                continue
            taken[one.group] = taken.get(one.group, 0) + 1
            if not arguments.limit or taken[one.group] <= arguments.limit:
                yield one.group, f"task {taken[one.group]}", (one.reference, one.target, one.truth)
        return
    named = arguments.sets or (",".join(QUICK) if arguments.quick else None)
    for name in wanted_sets(named):
        flat = load_set(name).dims == 2
        if (arguments.flat and not flat) or (arguments.volumes and flat):
            continue
        for pair in spread(pairs_for(name), arguments.limit):
            yield name, pair.label, common.read_pair(pair)


def averaged(rows: Sequence[Row], name: str) -> float | None:
    """Mean over structures of a pair, then pairs, then groups."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if name in row.dice:
            groups.setdefault(row.group, {}).setdefault(row.pair, []).append(row.dice[name])
    return mean(mean(mean(scores) for scores in pairs.values()) for pairs in groups.values())


def of_structures(rows: Sequence[Row], name: str) -> float | None:
    """Mean over structures, each alike."""
    return mean(row.dice.get(name) for row in rows)


def print_part(rows: Sequence[Row], names: Sequence[str], seconds: dict[str, list[float]], title: str) -> None:
    """A line a variant: by kind of image, by size of the structure, seconds a pair."""
    flat, deep = [row for row in rows if not row.volume], [row for row in rows if row.volume]
    cuts = [[row for row in rows if low <= row.share < high and row.share > 0] for _, low, high in SIZES]
    head = ["variant", "all", "pictures", "volumes"]
    head += [f"{label} ({len(cut)})" for (label, _, _), cut in zip(SIZES, cuts, strict=True)]
    table = [
        [name, *(averaged(some, name) for some in (rows, flat, deep)), *(of_structures(cut, name) for cut in cuts)]
        + [mean(seconds.get(name, []))]
        for name in names
    ]
    print_table(title, [*head, "s a pair"], table)


def gain(rows: Sequence[Row], name: str, over: str, how: Callable[..., float | None] = averaged) -> float | None:
    one, other = how(rows, name), how(rows, over)
    return None if one is None or other is None else one - other


def targets(rows: Sequence[Row], parts: Sequence[str]) -> list[tuple[str, float | None, float]]:
    """(what, figure, at least)."""
    found: list[tuple[str, float | None, float]] = []
    if "look" in parts:
        small = [row for row in rows if 0 < row.share < SMALL]
        told = f"two looks over one, {len(small)} structures below 2 % of the slice"
        found.append((told, gain(small, variants.TWO, variants.ONE, of_structures), GAIN))
    if "prototype" in parts:
        flat, deep = [row for row in rows if not row.volume], [row for row in rows if row.volume]
        deep = [row for row in deep if variants.ADAM in row.dice]
        of_pictures, of_volumes = (variants.BEST_ALONE[volume] for volume in (False, True))
        told = "adaptation alone over"
        found.append((f"{told} copying, pictures", gain(flat, of_pictures, variants.COPYING), OVER_COPYING))
        found.append((f"{told} copying, volumes", gain(deep, of_volumes, variants.COPYING), 0.0))
        found.append((f"{told} ConvexAdam, volumes", gain(deep, of_volumes, variants.ADAM), 0.0))
    return found


def concluded(rows: Sequence[Row], seconds: dict[str, list[float]], parts: Sequence[str], check: bool) -> int:
    """Print tables, targets and the figure; the exit status."""
    if "look" in parts:
        print_part(rows, [variants.ONE, *variants.LOOKS], seconds, "Closer look: mean Dice")
    if "prototype" in parts:
        known = [
            variants.COPYING,
            variants.ADAM,
            variants.PLACE,
            variants.EXPERT,
            *variants.ALONE,
            *variants.BY_ADAM,
            *variants.BOTH,
        ]
        print_part(rows, known, seconds, "Adaptation alone: mean Dice")
        print_part(rows, [variants.ONE, *variants.ADDED], seconds, "Adaptation added to the default: mean Dice")
    common.say("Targets")
    for told, figure, least in targets(rows, parts):
        if figure is not None:
            word = "met" if figure >= least else "missed"
            common.say(f"  {word}: {told}: {figure:+.3f}, at least {least:+.3f}")
    change = gain(rows, variants.TWO, variants.ONE)
    figures = [f"closer look {change:+.3f} Dice"] if change is not None else []
    for volume, kind in ((False, "pictures"), (True, "volumes")):
        some = [row for row in rows if row.volume == volume]
        alone, copying = averaged(some, variants.BEST_ALONE[volume]), averaged(some, variants.COPYING)
        if alone is not None and copying is not None:
            figures.append(f"{kind}: adaptation alone {alone:.3f}, copying {copying:.3f}")
    common.say(f"{'; '.join(figures)}; {len({(row.group, row.pair) for row in rows})} pairs")
    return int(check and change is not None and change < -LOSS)


def parser() -> ArgumentParser:
    made = common.options(__doc__ or "")
    made.add_argument("--tasks", action="store_true", help="the validation tasks instead of the evaluation sets")
    made.add_argument("--sets", help="names of sets, with commas between them (default: all)")
    made.add_argument("--limit", type=int, default=0, help="pairs a set, or tasks a group, at the most (default: all)")
    made.add_argument("--parts", default=",".join(PARTS), help="look, prototype, or both with a comma")
    made.add_argument("--flat", action="store_true", help="pictures alone")
    made.add_argument("--volumes", action="store_true", help="volumes alone")
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.limit = arguments.limit or 1
    parts = [part for part in PARTS if part in arguments.parts.split(",")]
    rows: list[Row] = []
    seconds: dict[str, list[float]] = {}
    failed = 0
    try:
        engine, settings = common.engine_for(arguments)
        for group, pair, read in items(arguments):
            try:
                found, spent = variants.compared(group, pair, read, engine, settings, parts)
            except RauError as problem:
                common.say(f"  {group} {pair} failed: {problem}")
                failed += 1
                continue
            rows += found
            for name, value in spent.items():
                seconds.setdefault(name, []).append(value)
            told = ", ".join(f"{name} {common.number(of_structures(found, name))}" for name in spent)
            common.say(f"  {group} {pair}: {told}")
        figures = {"rows": [asdict(row) for row in rows], "seconds": seconds, "versions": engine.versions()}
        common.write_json(arguments.json, figures)
    except RauError as problem:
        return common.stop(problem)
    return concluded(rows, seconds, parts, arguments.check) or int(arguments.check and failed > 0)


if __name__ == "__main__":
    sys.exit(main())
