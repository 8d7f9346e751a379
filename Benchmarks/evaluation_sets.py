"""One reference, one target, on every set that training may not see, and on the held-out cases of two that it may.

Pairs by the rule of `rau.evaluation.pairs`. Structures scored: those of the reference; absent in truth and result: left
out; absent in one of them: 0. The set brats has one subject: its FLAIR image is the reference of its T1 with contrast,
and copying the mask is then the truth itself.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict

import common

from rau.errors import RauError
from rau.evaluation.datasets import HELD_OUT, held_out_cases, load_set, set_names
from rau.evaluation.pairs import Pair, chain, pairs_of
from rau.evaluation.tables import print_table

EXPECTED = (
    "acdc_cine_mr",
    "biomedparse_demo",
    "brats",
    "chasedb1",
    "drive",
    "fsmedsam2_chaos_pair",
    "imis_btcv_2d",
    "lung_proton_mr",
    "medscribble",
    "oasis_trt20_2d",
    "sammed2d_demo",
    "wbc",
)


def wanted_sets(arguments: Namespace) -> list[str]:
    """The evaluation-only sets, then those with held-out cases; or those that the call names."""
    if arguments.sets:
        return [name.strip() for name in arguments.sets.split(",") if name.strip()]
    closed = [name for name in set_names() if not load_set(name).trainable]
    return [*sorted({*closed, *EXPECTED}), *HELD_OUT]


def pairs_for(name: str) -> list[Pair]:
    """All pairs of a set that may be evaluated on. Raises InputError."""
    cases = held_out_cases(name)
    return chain(cases, len(cases)) if load_set(name).trainable else pairs_of(cases)


def spread(pairs: list[Pair], limit: int) -> list[Pair]:
    """At most `limit` pairs (0: all), evenly over the list."""
    if not limit or len(pairs) <= limit:
        return pairs
    return [pairs[place * len(pairs) // limit] for place in range(limit)]


def outcomes_of(name: str, limit: int, engine: object, settings: object) -> Iterator[common.Outcome]:
    """Every pair of the set, told as it ends; one failed outcome where the set cannot be read."""
    try:
        pairs = spread(pairs_for(name), limit)
    except RauError as problem:
        yield common.Outcome(name, error=str(problem))
        return
    if not pairs:
        yield common.Outcome(name, error="no pair of two subjects")
    for pair in pairs:
        yield common.run_pair(pair, engine, settings)[0]


def parser() -> ArgumentParser:
    made = common.options(__doc__)
    made.add_argument("--sets", help="names of sets, with commas between them (default: all)")
    made.add_argument("--limit", type=int, default=0, help="pairs a set at the most (default: all)")
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.limit, arguments.planes = 1, "acquisition"
    try:
        names = wanted_sets(arguments)
        engine, settings = common.engine_for(arguments)
    except RauError as problem:
        return common.stop(problem)
    rows, figures, broken = [], {}, []
    for name in names:
        title = name + (" (held-out cases)" if name in HELD_OUT else "")
        common.say(title)
        outcomes = []
        for outcome in outcomes_of(name, arguments.limit, engine, settings):
            common.say(outcome.line())
            outcomes.append(outcome)
        failed = sum(bool(one.error) for one in outcomes)
        if failed:
            broken.append(name)
        figures[name] = [asdict(one) for one in outcomes]
        rows.append([title, len(outcomes) - failed, failed, *common.means(outcomes)])
    common.write_json(arguments.json, {"sets": figures, "versions": engine.versions()})
    columns = ["set", "pairs", "failed", "rau segment", "copying", "s a pair"]
    print_table("Mean Dice by set", columns, rows)
    if broken:
        common.say(f"Did not run to the end: {', '.join(broken)}")
    common.say(f"{len(rows) - len(broken)} of {len(rows)} sets ran")
    return int(arguments.check and bool(broken))


if __name__ == "__main__":
    sys.exit(main())
