"""What does the adapter of a site bring its next cases, and what does it take from others?

A bank is filled with accepted cases (the truth) of one set, `rau train adapter` trains on them, and cases of that set
that were never accepted are segmented with what the bank picks, without and with the adapter. "Not forgotten" is Dice
on other sets without and with it: a site uses its adapter for its own cases, and leaves it out by leaving out the
option, which gives the base back bit by bit (checked: the checksums of the model's files). Where the gate of the
training refuses the adapter, that is told, and there is nothing to compare. Only sets are taken whose licence allows
training.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from sets import pairs_for, spread

from rau.bank.bank import Bank
from rau.bank.search import pick
from rau.errors import InputError, NotHelpfulError, RauError
from rau.evaluation.datasets import Case, held_out_cases, load_set
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.models.store import sha256
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.training.adapter import AdapterTraining, train

SITE, OTHERS = "msd_hippocampus", "hc18"
FORGOTTEN = 0.02  # of mean Dice on other sets, that `--check` lets pass

Scores = list[tuple[str, float, float]]  # target, Dice without, Dice with


def split(cases: Sequence[Case], accepted: int, targets: int) -> tuple[list[Case], list[Case]]:
    """The first cases are accepted, the last ones are never. Raises InputError: too few."""
    if len(cases) < accepted + targets:
        raise InputError(f"The set has {len(cases)} cases, not {accepted} + {targets}", "Ask for fewer")
    return list(cases[:accepted]), list(cases[len(cases) - targets :])


def trained(bank: Path, output: Path, arguments: Namespace) -> str:
    """Train; "" where an adapter was written, else why not, one line."""
    how = AdapterTraining(
        str(bank), str(output), arguments.model, arguments.device, arguments.steps, folds=arguments.folds, minutes=0
    )
    try:
        for row in train(how):
            common.say("  " + ", ".join(f"{name} {value:g}" for name, value in row.items()))
    except NotHelpfulError as problem:
        return str(problem)
    return ""


def both(references: Sequence[Reference], case: Any, engine: Engine, ways: Sequence[SegmentSettings]) -> list[float]:
    """Dice of a target without and with the adapter. case: (image, truth)."""
    target, truth = case
    found = []
    for settings in ways:
        result = segment(references, target, settings, engine=engine)
        found.append(mean_of(dice_of_structures(truth, result.labels, references[0].structures)) or 0.0)
    return found


def on_site(bank: Bank, cases: Sequence[Case], engine: Engine, ways: Sequence[SegmentSettings]) -> Scores:
    """Cases that were never accepted, with references from the bank."""
    found = []
    for case in cases:
        target, truth = case.read()
        chosen = pick(bank, target, engine, ways[0], count=1, tell=lambda _: None)
        without, with_it = both(chosen.references, (target, truth), engine, ways)
        common.say(f"  {case.name}: {without:.3f} without, {with_it:.3f} with")
        found.append((case.name, without, with_it))
    return found


def elsewhere(name: str, limit: int, engine: Engine, ways: Sequence[SegmentSettings]) -> Scores:
    """Pairs of another set."""
    found = []
    for pair in spread(pairs_for(name), limit):
        reference, target, truth = common.read_pair(pair)
        without, with_it = both([reference], (target, truth), engine, ways)
        common.say(f"  {name} {pair.label}: {without:.3f} without, {with_it:.3f} with")
        found.append((pair.label, without, with_it))
    return found


def measured(arguments: Namespace, folder: Path) -> dict[str, Any]:
    """All figures. Raises RauError."""
    if not load_set(arguments.site).trainable:
        raise InputError(f"The set {arguments.site} may not be used for training", "Name another --site")
    engine, settings = common.engine_for(arguments)
    accepted, targets = split(held_out_cases(arguments.site), arguments.accepted, arguments.targets)
    bank = Bank.create(folder / "bank")
    for case in accepted:
        bank.accept(Reference(*case.read()), {"versions": engine.versions()}, title=arguments.site)
    before, start = base_files(engine), time.perf_counter()
    refused = trained(bank.root, folder / "site.safetensors", arguments)
    seconds = time.perf_counter() - start
    told: dict[str, Any] = {"refused": refused, "seconds": seconds, "unchanged": base_files(engine) == before}
    if refused:
        return told
    ways = [settings, settings.model_copy(update={"adapter": str(folder / "site.safetensors")})]
    told["bytes"] = (folder / "site.safetensors").stat().st_size
    told["site"] = on_site(bank, targets, engine, ways)
    others = [name for name in arguments.others.split(",") if name]
    told["others"] = {name: elsewhere(name, arguments.limit, engine, ways) for name in others}
    told["unchanged"] = base_files(engine) == before
    return told


def base_files(engine: Engine) -> dict[str, str]:
    folder = engine.folder.path
    return {str(one.relative_to(folder)): sha256(one) for one in sorted(folder.rglob("*")) if one.is_file()}


def means(scores: Scores) -> tuple[float, float]:
    return mean(one[1] for one in scores) or 0.0, mean(one[2] for one in scores) or 0.0


def tell(figures: dict[str, Any], site: str) -> bool:
    """Tables and one line; whether what `--check` asks for holds."""
    if figures["refused"]:
        common.say(f"refused after {figures['seconds']:.0f} s: {figures['refused']}")
        return bool(figures["unchanged"])
    groups = {f"{site}, never accepted": figures["site"], **figures["others"]}
    rows = [[name, str(len(scores)), *means(scores)] for name, scores in groups.items()]
    print_table("Mean Dice without and with the adapter", ["cases", "n", "without", "with"], rows)
    without, with_it = means(figures["site"])
    lost = max([a - b for a, b in map(means, figures["others"].values())], default=0.0)
    common.say(
        f"never accepted: {without:.3f} -> {with_it:.3f}; other sets lose at most {lost:+.3f} with it; "
        f"{figures['bytes'] / 1000:.0f} KB, trained in {figures['seconds']:.0f} s; the model's files "
        f"{'are unchanged' if figures['unchanged'] else 'HAVE CHANGED'}"
    )
    return bool(figures["unchanged"]) and with_it >= without and lost <= FORGOTTEN


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--site", default=SITE, help=f"set of the accepted cases (default {SITE})")
    parser.add_argument("--accepted", type=int, default=8, help="accepted cases (default 8)")
    parser.add_argument("--targets", type=int, default=8, help="cases that were never accepted (default 8)")
    parser.add_argument("--others", default=OTHERS, help=f"sets on which nothing may be forgotten (default {OTHERS})")
    parser.add_argument("--limit", type=int, default=5, help="pairs of each of them (default 5)")
    parser.add_argument("--steps", type=int, default=100, help="of a training (default 100)")
    parser.add_argument("--folds", type=int, default=4, help="accepted cases that are left out in turn (default 4)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.site, arguments.others, arguments.limit = "hc18", "", 0
        arguments.accepted, arguments.targets, arguments.steps, arguments.folds = 4, 2, 10, 2
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measured(arguments, Path(folder))
        common.write_json(arguments.json, figures)
    except RauError as problem:
        return common.stop(problem)
    held = tell(figures, arguments.site)
    return int(arguments.check and not held)


if __name__ == "__main__":
    sys.exit(main())
