"""Whether a bank that picks is worth more than any reference: Dice with the retrieved, a random and the worst one.

A bank is made of the cases of several sets (at most `--cases` of each). References for a target are looked for in it as
by `rau segment --bank`, with the entries of its own subject left out and its own structures wanted; a structure that
the reference lacks counts 0. Random and worst (by the search's own ranking) are drawn from the entries that show at
least one wanted structure. Then, with descriptors alone, over all cases:

- slices: for each structure in a target slice, whether the aligned slice of the retrieved reference shows it too
  (beside: the slice at the same relative position of it; and of a random reference);
- looks alone: whether the first entry is of the target's set, when neither structures nor modality are known;
- mismatch: entries of other modalities are to be doubted, the retrieved entry of the target's own set is not; with
  modalities told, and by looks and colour alone (what the target is, is then guessed from the entries most alike).
"""

from __future__ import annotations

import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from sets import spread

from rau.bank.bank import Bank
from rau.bank.search import Candidate, pick, rank
from rau.errors import RauError
from rau.evaluation.datasets import HELD_OUT, Case, held_out_cases, load_set
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.pairs import group
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume

SETS = ("imis_btcv_2d", "oasis_trt20_2d", "wbc", "chasedb1", *reversed(HELD_OUT), "acdc_cine_mr", "lung_proton_mr")
QUICK_SETS = ("oasis_trt20_2d", "wbc")
COUNTS = (1, 3, 5)
WAYS = (*(f"retrieved {count}" for count in COUNTS), "random", "worst")
KINDS = {"CT": "CT", "MR": "MR", "proton MR": "MR", "ultrasound": "US"}  # how a set's modality begins


@dataclass(frozen=True)
class Member:
    """A case in the bank. modality: what its set says; "OT" for photographs."""

    case: Case
    entry: str
    modality: str
    reference: Reference = field(repr=False)

    @property
    def subject(self) -> tuple[str, str]:
        return self.case.set, self.case.subject

    @property
    def wanted(self) -> tuple[str, ...]:
        shown = set(np.unique(self.reference.labels.array).tolist())
        return tuple(one.name for one in self.reference.structures if one.value in shown)


def fill(bank: Bank, names: Sequence[str], most: int) -> list[Member]:
    """The cases of the sets, in the bank with the modality of their set."""
    members = []
    for name in names:
        told = load_set(name).modality
        modality = next((kind for start, kind in KINDS.items() if told.startswith(start)), "OT")
        for case in spread(list(held_out_cases(name)), most):
            image, labels = case.read()
            reference = Reference(replace(image, modality=modality), labels)
            entry = bank.add(reference, title=name, body_part=group(case), tell=lambda _: None)
            members.append(Member(case, entry.id, modality, reference))
    return members


def own(member: Member, members: Sequence[Member]) -> set[str]:
    """Entries of the member's own subject."""
    return {one.entry for one in members if one.subject == member.subject}


@dataclass(frozen=True)
class Setting:
    """What all of a run share."""

    bank: Bank
    members: Sequence[Member]
    engine: Engine
    settings: SegmentSettings

    def ranked(self, member: Member, target: Volume, wanted: tuple[str, ...] = ()) -> list[Candidate]:
        """Every entry that can be used for a target, but those of its subject; the best first."""
        settings = self.settings.model_copy(update={"structures": wanted})
        left_out, every = own(member, self.members), len(self.members)
        found = rank(self.bank, target, self.engine, settings, leave_out=left_out, most=every, tell=lambda _: None)
        return [one for one in found if not one.out]

    def dice(self, member: Member, references: Sequence[Reference]) -> float | None:
        """Mean Dice over the structures of the target; what the references lack counts 0."""
        image, labels = member.reference.image, member.reference.labels
        theirs = {one.name.lower() for reference in references for one in reference.structures}
        asked = tuple(name for name in member.wanted if name.lower() in theirs)
        settings = self.settings.model_copy(update={"structures": asked})
        result = segment(list(references), image, settings, engine=self.engine)
        truth = tuple(one for one in labels.structures if one.name in member.wanted)
        return mean_of(dice_of_structures(labels, result.labels, truth))


def dice_by_way(member: Member, run: Setting, rng: random.Random) -> dict[str, float | None]:
    """Of one target, by `WAYS`. Where fewer references are there than asked for, those that are there."""
    image, wanted = member.reference.image, member.wanted
    ranked = run.ranked(member, image, wanted)
    if len(ranked) < 2:
        return {}
    found = {}
    settings = run.settings.model_copy(update={"structures": wanted})
    for count in COUNTS:
        left_out = own(member, run.members)
        picked = pick(run.bank, image, run.engine, settings, count=count, leave_out=left_out, tell=lambda _: None)
        found[f"retrieved {count}"] = run.dice(member, picked.references)
    for way, one in (("random", rng.choice(ranked)), ("worst", ranked[-1])):
        found[way] = run.dice(member, [run.bank.reference(one.entry.id)])
    return found


def dice_part(names: Sequence[str], run: Setting, limit: int) -> dict[str, dict[str, Any]]:
    """By set: mean Dice of each way, and the single targets."""
    rng, figures = random.Random(0), {}
    for name in names:
        rows = []
        for member in spread([one for one in run.members if one.case.set == name], limit):
            try:
                found = dice_by_way(member, run, rng)
            except RauError as problem:
                common.say(f"  {member.case.name}: failed: {problem}")
                continue
            if found:
                rows.append({"target": member.case.name, **found})
                common.say(
                    f"  {name} {member.case.name}: "
                    + ", ".join(f"{way} {common.number(value)}" for way, value in found.items())
                )
        figures[name] = {"targets": rows, **{way: mean(row[way] for row in rows) for way in WAYS}}
    return figures


def shared_slices(target: LabelMap, reference: LabelMap, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    """For each structure in a slice of the target, whether that of the reference shows it. pairs: slice numbers.

    A structure that the reference does not know is not shown.
    """
    found = []
    theirs = {one.name.lower(): one.value for one in reference.structures}
    for here, there in pairs:
        for one in target.structures:
            if np.any(target.array[here] == one.value):
                value = theirs.get(one.name.lower())
                found.append(value is not None and bool(np.any(reference.array[there] == value)))
    return found


def recall_part(run: Setting) -> dict[str, dict[str, float | None]]:
    """By set: recall of same-region slices by alignment, by relative position, and with a random reference."""
    from rau.bank.descriptors import volume_descriptors
    from rau.references.retrieval import align, cosines

    by_entry, rng = {one.entry: one for one in run.members}, random.Random(0)
    hits: dict[str, dict[str, list[bool]]] = {}
    for member in run.members:
        ranked = run.ranked(member, member.reference.image, member.wanted)
        if not ranked:
            continue
        for way, one in (("aligned", ranked[0]), ("random", rng.choice(ranked))):
            other = by_entry[one.entry.id].reference
            if not _axial(member.reference.image) or not _axial(other.image):
                continue
            mine, theirs = (volume_descriptors(run.engine, image, 0) for image in (member.reference.image, other.image))
            step = member.reference.image.geometry.spacing[0] / other.image.geometry.spacing[0]
            index = align(cosines(mine, theirs), step).index.tolist()
            target, labels = member.reference.labels, other.labels
            kept = hits.setdefault(member.case.set, {"aligned": [], "position": [], "random": []})
            kept[way] += shared_slices(target, labels, list(enumerate(index)))
            if way == "aligned":
                relative = np.rint(np.linspace(0, len(theirs) - 1, len(mine))).astype(int).tolist()
                kept["position"] += shared_slices(target, labels, list(enumerate(relative)))
    return {name: {way: mean(map(float, found)) for way, found in by.items()} for name, by in hits.items()}


def _axial(image: Volume) -> bool:
    """Whether slices of the array are slices of its canonical form, in the same order."""
    from rau.volume.orientation import orientation_of

    turned = orientation_of(image.geometry)
    return turned.order[0] == 0 and not turned.flipped[0]


def mismatch_part(run: Setting) -> dict[str, float | None]:
    """Rates over all cases, 0 to 1; see the head of this file."""
    sets = {one.entry: one.case.set for one in run.members}
    modality = {one.entry: one.modality for one in run.members}
    rates = ("same_set", "told", "untold", "false", "untold_false", "similarity")
    found: dict[str, list[float]] = {name: [] for name in rates}
    for member in run.members:
        told = run.ranked(member, member.reference.image)
        untold = run.ranked(member, replace(member.reference.image, modality=""))
        if not untold:
            continue
        found["same_set"].append(float(sets[untold[0].entry.id] == member.case.set))
        others = [one for one in told if modality[one.entry.id] != member.modality]
        if others:
            found["told"].append(float(all(one.doubts for one in others)))
            best = next(one for one in untold if modality[one.entry.id] != member.modality)
            found["untold"].append(float(bool(best.doubts)))
            found["similarity"].append(best.similarity or 0.0)
        for name, ranked in (("false", told), ("untold_false", untold)):
            right = [one for one in ranked if sets[one.entry.id] == member.case.set]
            if right:
                found[name].append(float(bool(right[0].doubts)))
    return {name: mean(values) for name, values in found.items()}


def tell_looks(recall: dict[str, dict[str, float | None]], rates: dict[str, float | None]) -> None:
    """What descriptors alone gave."""
    rows = [[name, *one.values()] for name, one in recall.items()]
    print_table("Slices whose partner shows the structure too", ["set", "aligned", "position", "random"], rows)
    common.say(f"first by looks alone is of the same set: {common.number(rates['same_set'])}")
    common.say(
        f"other modality doubted: {common.number(rates['told'])} when it is told, {common.number(rates['untold'])} by "
        f"looks and colour alone; the right set doubted: {common.number(rates['false'])} and "
        f"{common.number(rates['untold_false'])}"
    )


def tell_dice(dice: dict[str, dict[str, Any]]) -> None:
    """By set, and the mean of sets."""
    rows = [[name, len(one["targets"]), *(one[way] for way in WAYS)] for name, one in dice.items()]
    if len(rows) > 1:
        rows.append(["mean of sets", sum(row[1] for row in rows), *(mean(r[k] for r in rows) for k in range(2, 7))])
    print_table("Mean Dice by reference", ["set", "targets", *WAYS], [[row[0], str(row[1]), *row[2:]] for row in rows])


def measured(arguments: Namespace, folder: Path) -> dict[str, Any]:
    """All figures. Raises RauError."""
    engine, settings = common.engine_for(arguments)
    names = arguments.sets.split(",") if arguments.sets else QUICK_SETS if arguments.quick else SETS
    bank = Bank.create(folder / "bank")
    members = fill(bank, names, 6 if arguments.quick else arguments.cases)
    common.say(f"a bank of {len(members)} cases of {len(names)} sets")
    run = Setting(bank, members, engine, settings)
    recall, mismatch = recall_part(run), mismatch_part(run)
    tell_looks(recall, mismatch)
    chosen = names if arguments.dice_sets is None else [name for name in arguments.dice_sets.split(",") if name]
    dice = dice_part(chosen, run, 1 if arguments.quick else arguments.limit)
    return {"dice": dice, "recall": recall, "mismatch": mismatch, "versions": engine.versions()}


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--sets", help="names of sets, with commas between them")
    parser.add_argument("--dice-sets", help="those of them whose targets are segmented (default: all; empty: none)")
    parser.add_argument("--cases", type=int, default=16, help="cases of a set in the bank (default 16)")
    parser.add_argument("--limit", type=int, default=4, help="targets of a set that are segmented (default 4)")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measured(arguments, Path(folder))
        common.write_json(arguments.json, figures)
    except RauError as problem:
        return common.stop(problem)
    tell_dice(figures["dice"])
    means = {way: mean(one[way] for one in figures["dice"].values()) for way in WAYS}
    common.say("mean Dice of sets: " + ", ".join(f"{way} {common.number(value)}" for way, value in means.items()))
    first, chance, worst = (means[way] or 0.0 for way in ("retrieved 1", "random", "worst"))
    better = arguments.quick or (first >= chance and first >= worst)  # two targets of --quick show nothing of that
    held = better and figures["mismatch"]["told"] in (None, 1.0)
    return int(arguments.check and not held)


if __name__ == "__main__":
    sys.exit(main())
