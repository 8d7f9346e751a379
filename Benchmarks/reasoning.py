"""What the VLM brings to `rau segment`: the same pairs without it, and with each use of what it says.

One engine, one run: uses are switched on the loaded VLM (`rau.vlm.engine.Reasoning.uses`). "layout shifted": the
pictures once more, each target moved by a fifth of its height and width (seeded signs), what leaves it is gone.
Presence: of the structures that the reference shows and the target does not, how many are reported present all the
same; of those that both show, how many are reported missing.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from sets import pairs_for, spread, wanted_sets

from rau.errors import InputError, RauError
from rau.evaluation.datasets import load_set
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume

WITHOUT = "without"
VARIANTS: dict[str, tuple[str, ...]] = {
    WITHOUT: (),
    "presence": ("presence",),
    "boxes": ("boxes",),
    "fusion": ("fusion",),
    "all": ("presence", "boxes", "fusion"),
}
MOVED = 0.2  # of height and width
SHIFTED = " (shifted)"
WORSE = 0.002  # mean Dice that the default may lose to rounding


@dataclass(frozen=True)
class One:
    """A pair by one variant. false: absent structures reported present, of `absent`; lost: present ones missing, of
    `present`.
    """

    set: str
    pair: str
    variant: str
    dice: float | None
    absent: int
    false: int
    present: int
    lost: int


def moved(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(1, R, C[, 3]) moved down and to the right; zeros come in."""
    out = np.zeros_like(array)
    height, width = array.shape[1:3]
    there = (slice(max(0, rows), height + min(0, rows)), slice(max(0, columns), width + min(0, columns)))
    here = (slice(max(0, -rows), height + min(0, -rows)), slice(max(0, -columns), width + min(0, -columns)))
    out[:, there[0], there[1]] = array[:, here[0], here[1]]
    return out


def shifted(target: Volume, truth: LabelMap, seed: int) -> tuple[Volume, LabelMap]:
    """A picture and its truth, moved alike."""
    signs = np.random.default_rng(seed).choice([-1, 1], 2)
    rows, columns = (int(s * MOVED * n) for s, n in zip(signs, target.array.shape[1:3]))
    return (
        replace(target, array=moved(target.array, rows, columns)),
        replace(truth, array=moved(truth.array, rows, columns)),
    )


def measured(
    name: str,
    label: str,
    case: tuple[Reference, Volume, LabelMap],
    engine: Engine,
    settings: SegmentSettings,
    uses: str,
) -> One:
    """Segment by a variant and compare with the truth."""
    reference, target, truth = case
    chosen = VARIANTS[uses]
    asked = replace(engine, reasoning=replace(engine.reasoning, uses=chosen) if chosen and engine.reasoning else None)
    result = segment([reference], target, settings, engine=asked)
    by_name = dice_of_structures(truth, result.labels, reference.structures)
    here = {one.name.lower() for one in truth.structures if np.any(truth.array == one.value)}
    shown = [one for one in result.structures if np.any(reference.labels.array == one.structure.value)]
    absent = [one for one in shown if one.structure.name.lower() not in here]
    present = [one for one in shown if one.structure.name.lower() in here]
    false, lost = sum(one.present for one in absent), sum(not one.present for one in present)
    return One(name, label, uses, mean_of(by_name), len(absent), false, len(present), lost)


def run_set(
    name: str, arguments: Namespace, engine: Engine, settings: SegmentSettings, variants: Sequence[str]
) -> list[One]:
    """All pairs by all variants; pictures twice, as they are and shifted."""
    found: list[One] = []
    flat = load_set(name).dims == 2
    for number, pair in enumerate(spread(pairs_for(name), arguments.limit)):
        read = common.read_pair(pair)
        cases = {name: read}
        if flat and not arguments.no_shift:
            cases[name + SHIFTED] = (read[0], *shifted(read[1], read[2], number))
        for title, case in cases.items():
            rows = [measured(title, pair.label, case, engine, settings, uses) for uses in variants]
            common.say(
                f"  {title} {pair.label}: " + ", ".join(f"{one.variant} {common.number(one.dice)}" for one in rows)
            )
            found += rows
    return found


def table(found: Sequence[One], variants: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Mean Dice by set and variant."""
    names = list(dict.fromkeys(one.set for one in found))
    return {n: {v: mean(o.dice for o in found if o.set == n and o.variant == v) for v in variants} for n in names}


def presence(found: Sequence[One], variant: str) -> list[Any]:
    rows = [one for one in found if one.variant == variant]
    absent, present = sum(one.absent for one in rows), sum(one.present for one in rows)
    false, lost = sum(one.false for one in rows), sum(one.lost for one in rows)
    right = (1 - false / absent if absent else 1.0, 1 - lost / present if present else 1.0)
    return [variant, absent, false, present, lost, float(np.mean(right))]


def conclude(found: Sequence[One], variants: Sequence[str], default: tuple[str, ...]) -> bool:
    """Print the tables and the figure. Whether the default is not worse on average than without the VLM."""
    by_set = table(found, variants)
    print_table("Mean Dice by set", ["set", *variants], [[n, *(row[v] for v in variants)] for n, row in by_set.items()])
    groups = {
        "as they are": [n for n in by_set if SHIFTED not in n],
        "layout shifted": [n for n in by_set if SHIFTED in n],
    }
    means = {g: {v: mean(by_set[n][v] for n in names) for v in variants} for g, names in groups.items() if names}
    print_table(
        "Mean over the sets", ["sets", *variants], [[g, *(row[v] for v in variants)] for g, row in means.items()]
    )
    columns = ["variant", "absent", "reported present", "present", "reported missing", "balanced accuracy"]
    print_table("Presence", columns, [presence(found, v) for v in variants])
    ours = next((v for v in variants if v != WITHOUT and VARIANTS[v] == default), None)
    plain = means["as they are"].get(WITHOUT)
    told = ", ".join(f"{v} {common.number(means['as they are'][v])}" for v in variants)
    common.say(
        f"mean Dice over {len(groups['as they are'])} sets: {told}; the default uses {', '.join(default) or 'none'}"
    )
    kept = means["as they are"].get(ours) if ours else plain
    return kept is None or plain is None or kept >= plain - WORSE


def parser() -> ArgumentParser:
    made = common.options(__doc__)
    made.add_argument("--sets", help="names of sets, with commas between them (default: all)")
    made.add_argument("--limit", type=int, default=6, help="pairs a set at the most (default 6; 0: all)")
    made.add_argument("--variants", default=",".join(VARIANTS), help="of " + ", ".join(VARIANTS))
    made.add_argument("--no-shift", action="store_true", help="leave the shifted pictures out")
    made.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="run nothing: judge these runs as one")
    return made


def main() -> int:
    arguments = parser().parse_args()
    variants = [one.strip() for one in arguments.variants.split(",") if one.strip()]
    try:
        if set(variants) - set(VARIANTS):
            raise InputError("No such variant", f"Take of: {', '.join(VARIANTS)}")
        if arguments.quick:
            arguments.limit, arguments.sets = 1, arguments.sets or "medscribble,wbc,hc18"
        engine, settings = common.engine_for(arguments)
        if arguments.join:
            told = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.join]
            found = [One(**row) for one in told for row in one["pairs"]]
            variants = list(dict.fromkeys(one.variant for one in found))
        else:
            engine, settings = prepared(engine, settings)
            variants = [v for v in variants if "fusion" not in VARIANTS[v] or fuses(engine)]
            names = wanted_sets(arguments.sets, arguments.quick)
            found = [one for n in names for one in run_set(n, arguments, engine, settings, variants)]
        common.write_json(arguments.json, {"pairs": [asdict(one) for one in found], "versions": engine.versions()})
    except RauError as problem:
        return common.stop(problem)
    part = engine.folder.manifest.vlm
    good = conclude(found, variants, part.uses if part else ())
    return int(arguments.check and not good)


def fuses(engine: Engine) -> bool:
    return engine.reasoning is not None and engine.reasoning.fusion is not None


def prepared(engine: Engine, settings: SegmentSettings) -> tuple[Engine, SegmentSettings]:
    """The engine with its VLM loaded, whatever the default makes of it. Raises InputError where it has none."""
    from rau.vlm.engine import load_reasoning

    reasoning = engine.reasoning or load_reasoning(engine.folder, engine.segmenter, engine.device)
    if reasoning is None:
        raise InputError(f"The model {engine.name} has no VLM", "Give one that has, with --model")
    return replace(engine, reasoning=reasoning), settings


if __name__ == "__main__":
    sys.exit(main())
