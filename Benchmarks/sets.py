"""Which sets and which of their pairs are evaluated."""

from __future__ import annotations

from rau.evaluation.datasets import HELD_OUT, held_out_cases, load_set, set_names
from rau.evaluation.pairs import Pair, chain, pairs_of

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
SMALL = ("fsmedsam2_chaos_pair", "medscribble", "oasis_trt20_2d", "wbc", "msd_hippocampus", "hc18")  # of --quick


def wanted_sets(named: str | None, quick: bool = False) -> list[str]:
    """The evaluation-only sets, then those with held-out cases; or those that the call names, by commas."""
    if named:
        return [name.strip() for name in named.split(",") if name.strip()]
    here = set_names()
    if quick:
        return [name for name in SMALL if name in here] or here
    closed = [name for name in here if not load_set(name).trainable]
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
