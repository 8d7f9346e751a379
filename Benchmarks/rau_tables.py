"""RAU's tables (labelling, boxes, assignment, fusion, presence) at the scale of rau-mini, the prefix cache, the width.

Every table is of the fixed items of `rau_tasks`, in and out of distribution. Accuracies, IoU and gIoU are means over
items or structures; Dice is the mean over the sources of each source's mean. A table whose run folder is not given is
left out; without --sft and --grpo the VLM of the model folder is measured, where it has one.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import rau_masks as masks
import rau_scores as scores
from common import number
from figures import Target
from rau_bench import GRPO, GRPO_BOXES, SFT, UNTRAINED, Bench, LeftOut, Table
from rau_tasks import IN, labels_of

from rau.errors import InputError, RauError
from rau.evaluation.tables import Cell, print_table

SAME = 1e-3  # difference of answers with the prefix cache and without
FEWER = 0.40  # part of the prompt tokens that the prefix cache saves, at least
REFERENCES, TARGETS = 6, 8  # of the prefix cache: references, and targets of each


def labelling(bench: Bench) -> Table:
    name, loaded = bench.some
    compared = {UNTRAINED: scores.untrained_like(loaded), **bench.trained}
    compared.pop(GRPO_BOXES, None)
    rows: list[list[Cell]] = []
    found: dict[tuple[str, str], float | None] = {}
    for group in bench.groups:
        items = labels_of(group).items()
        for stage, one in compared.items():
            right = scores.right_labels(scores.answered(one, items), items)
            mean, error = scores.share(right)
            found[stage, group.name] = mean
            rows.append([group.name, stage, len(items), mean, error, scores.chance(items)])
    targets = []
    if SFT in compared and GRPO in compared:
        for group in bench.groups:
            grpo, sft = found[GRPO, group.name], found[SFT, group.name]
            what = f"labelling accuracy of SFT {group.name}, of GRPO"
            targets.append(Target(what, None if grpo is None else sft, grpo or 0.0, "below"))
    last = list(compared)[-1]
    told = ", ".join(f"{number(found[last, one.name])} {one.name}" for one in bench.groups)
    columns = ["group", "stage", "items", "accuracy", "±", "chance"]
    return Table("Labelling accuracy", columns, rows, f"labelling ({last}) {told}", targets)


def boxes(bench: Bench) -> Table:
    """Head, and copying on the same items; then a part of the items in words, with all three on that part."""
    stages = {bench.some[0]: bench.some[1]}
    if GRPO_BOXES in bench.trained:
        stages[GRPO_BOXES] = bench.trained[GRPO_BOXES]
    rows: list[list[Cell]] = []
    heads = []

    def note(group: str, stage: str, way: str, one: scores.BoxFigures) -> str:
        rows.append([group, stage, way, one.items, one.structures, one.iou, one.hits])
        return f"{number(one.iou)} {group}"

    for group in bench.groups:
        items = group.items()
        note(group.name, "reference", "copying", scores.box_figures(scores.copied_boxes(items), items))
        for stage, loaded in stages.items():
            figures = scores.box_figures(scores.head_boxes(loaded, items), items)
            heads.append(note(group.name, stage, "head", figures))
        if not bench.trained:
            continue  # what has not learnt to answer writes to the limit every time
        few = group.some(max(2, bench.arguments.words)).items()
        for place, (stage, loaded) in enumerate(stages.items()):
            asked, found = scores.word_boxes(loaded, few)
            if not place:
                note(group.name, "reference", "copying, part", scores.box_figures(scores.copied_boxes(asked), asked))
                head = scores.head_boxes(bench.some[1], asked)
                note(group.name, bench.some[0], "head, part", scores.box_figures(head, asked))
            note(group.name, stage, "words, part", scores.box_figures(found, asked))
    columns = ["group", "stage", "way", "items", "structures", "mean IoU", "AP50"]
    return Table("Boxes of structures that are there", columns, rows, f"box IoU of the head {', '.join(heads)}")


def assignment(bench: Bench) -> Table:
    stage, loaded = bench.labeller
    rows: list[list[Cell]] = []
    targets, told = [], []
    for group in bench.groups:
        used, hits = scores.assignment_hits(loaded, group.items())
        means = {rule: scores.share(found)[0] for rule, found in hits.items()}
        for rule, found in hits.items():
            rows.append([group.name, stage, rule, used, len(found), *scores.share(found)])
        best, others = means["transport"], [means["arg-max"], means["independent"], means["hungarian"]]
        if best is not None and bench.trained:
            needed = max(one for one in others if one is not None)
            targets.append(Target(f"assignment by transport {group.name}", best, needed))
        told.append(f"{number(best)} {group.name}")
    columns = ["group", "stage", "rule", "items", "regions", "accuracy", "±"]
    return Table("Assignment of true regions to names", columns, rows, f"transport {', '.join(told)}", targets)


def fusion(bench: Bench) -> Table:
    if bench.speaker.fusion is None:
        raise LeftOut("no fusion: give --fusion, or a --model that has one")
    rows: list[list[Cell]] = []
    told = []
    for group, found in bench.outcomes.items():
        shown = sum(one.present for one in found)
        for way in masks.ways_of(bench.speaker):
            rows.append([group, way, len({one.item for one in found}), shown, *masks.dice_and_iou(found, way)])
        dice = [number(masks.dice_and_iou(found, way)[0]) for way in (masks.MEMORY, masks.BOTH)]
        told.append(f"{dice[0]} -> {dice[1]} {group}")
    columns = ["group", "told", "items", "structures", "Dice", "gIoU"]
    return Table("Masks of SAM2", columns, rows, f"Dice of memory -> fusion + boxes {', '.join(told)}")


def presence(bench: Bench) -> Table:
    rows: list[list[Cell]] = []
    chosen: dict[str, float | None] = {}
    told = []
    for group, found in bench.outcomes.items():
        for who in masks.signals(bench.speaker):
            one = masks.presence_of(found, who, chosen.get(who))
            chosen.setdefault(who, one.threshold)
            row: list[Cell] = [group, who, len({o.item for o in found}), one.structures, one.absent]
            rows.append([*row, one.accuracy, one.area, one.threshold, one.fitted])
            told += [f"{number(one.area)} {group}"] if who == masks.SAYS_VLM else []
    columns = [
        "group",
        "signal",
        "items",
        "structures",
        "absent",
        "balanced at 0.5",
        "ROC AUC",
        "threshold",
        "balanced",
    ]
    return Table("Presence (threshold: of half of the first group)", columns, rows, f"presence AUC {', '.join(told)}")


def prefix(bench: Bench) -> Table:
    stage, loaded = bench.some
    references, targets = (2, 4) if bench.quick else (REFERENCES, TARGETS)
    one = scores.prefix_figures(loaded, bench.groups[-1], references, targets)
    rows: list[list[Cell]] = [
        ["without", one.slices, one.without, 1000 * one.seconds[1], None, None],
        ["with", one.slices, one.with_cache, 1000 * one.seconds[0], one.ratio, f"{one.difference:.1e}"],
    ]
    wanted = [
        Target("difference of answers with the prefix cache", one.difference, SAME, "at most"),
        Target("part of the prompt tokens saved by the prefix cache", one.fewer, FEWER),
    ]
    columns = ["prefix cache", "slices", "tokens a slice", "ms a slice", "time ratio", "difference"]
    title = f"Prefix cache ({stage}), {targets} targets of each reference"
    return Table(title, columns, rows, f"prefix cache saves {100 * one.fewer:.0f} % of the prompt", wanted)


def width(bench: Bench) -> Table:
    runs = [Path(part) for part in (bench.arguments.widths or "").split(",") if part]
    if not runs:
        raise LeftOut("no --widths")
    measured = []
    for run in runs:
        speaker = bench.fused(run)
        wide = speaker.fusion.config.width if speaker.fusion is not None else 0
        for group in bench.groups:
            found = masks.outcomes(group, speaker, bench.plain, [masks.BOTH])
            measured.append((group.name, wide, len(group.items()), *masks.dice_and_iou(found, masks.BOTH)))
    measured.sort(key=lambda one: (one[0] != IN, one[1]))
    rows: list[list[Cell]] = [list(one) for one in measured]
    told = ", ".join(f"{one[1]}: {number(one[3])}" for one in measured if one[0] == IN)
    columns = ["group", "width", "items", "Dice", "gIoU"]
    return Table("Width of the projector, fusion + boxes", columns, rows, f"Dice by width {told}")


TABLES: dict[str, Callable[[Bench], Table]] = {
    one.__name__: one for one in (labelling, boxes, assignment, fusion, presence, prefix, width)
}


def chosen_tables(named: str | None) -> list[str]:
    """Raises InputError for a name that is none."""
    names = [name.strip() for name in (named or ",".join(TABLES)).split(",") if name.strip()]
    for name in names:
        if name not in TABLES:
            raise InputError(f"No table {name!r}", f"Take of: {', '.join(TABLES)}")
    return names


def run(bench: Bench, names: Sequence[str]) -> tuple[dict[str, Table], dict[str, float], int]:
    """Every table, printed as it is made; the seconds of each; how many failed. One that cannot be made is told."""
    made, seconds, failed = {}, {}, 0
    for name in names:
        start = time.perf_counter()
        try:
            made[name] = TABLES[name](bench)
            seconds[name] = time.perf_counter() - start
            print_table(f"{made[name].title} ({seconds[name]:.0f} s)", made[name].columns, made[name].rows)
        except LeftOut as reason:
            common.say(f"{name} is left out: {reason}")
        except Exception as problem:  # a benchmark reports a defect and goes on
            failed += 1
            common.say(f"{name} failed: {type(problem).__name__}: {' '.join(str(problem).split())}")
    return made, seconds, failed


def judged(made: dict[str, Table]) -> bool:
    """Print every target, met or missed. Whether all are met."""
    targets = [one for table in made.values() for one in table.targets]
    if targets:
        common.say("Targets")
    for one in targets:
        common.say(f"  {one.line()}")
    return all(one.met for one in targets)


def parser() -> ArgumentParser:
    made = ArgumentParser(description=__doc__)
    made.add_argument("--quick", action="store_true", help="a few items, in less than a minute; random weights will do")
    made.add_argument("--check", action="store_true", help="exit with 1 when a target is missed or a table fails")
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--only", help=f"tables, with commas between them, of: {', '.join(TABLES)} (default: all)")
    made.add_argument("--model", default="rau-mini", help="name or folder of the model (default rau-mini)")
    made.add_argument("--sft", type=Path, metavar="RUN", help="run folder of `rau train sft`")
    made.add_argument("--grpo", type=Path, metavar="RUN", help="run folder of `rau train grpo`, task label")
    made.add_argument("--grpo-boxes", type=Path, metavar="RUN", help="run folder of `rau train grpo`, task boxes")
    made.add_argument("--fusion", type=Path, metavar="RUN", help="run folder of `rau train fusion`")
    made.add_argument("--widths", metavar="RUN,...", help="run folders of `rau train fusion` of several widths")
    made.add_argument("--items", type=int, default=0, help="items a source (default 24; 3 with --quick)")
    made.add_argument("--words", type=int, default=16, help="items a group whose boxes are written (default 16)")
    made.add_argument("--cache", type=Path, metavar="FOLDER", help="where random anatomies are kept (default: nowhere)")
    return made


def main() -> int:
    arguments = parser().parse_args()
    try:
        names = chosen_tables(arguments.only)
        bench = Bench(arguments)
        made, seconds, failed = run(bench, names)
        good = judged(made) and not failed
        told = {name: {**table.told(), "seconds": round(seconds[name], 1)} for name, table in made.items()}
        lines = [{"line": one.line(), "met": one.met} for table in made.values() for one in table.targets]
        common.write_json(arguments.json, {"tables": told, "targets": lines, "items": bench.count})
    except RauError as problem:
        return common.stop(problem)
    figures = [table.figure for table in made.values()]
    common.say("; ".join([*figures, f"{len(made)} of {len(names)} tables, {failed} failed"]))
    return int(arguments.check and not good)


if __name__ == "__main__":
    sys.exit(main())
