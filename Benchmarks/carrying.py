"""What do corrected slices give to the slices beside them, after all else has been found?

Each pair is segmented with 1, 3 and 5 slices put right (those of `loop.py`), once; then from what was found: as it is,
with the errors of the corrected slices carried to those nearby, and with the shape between two of them too
(`rau.assembly.carrying`). Dice over the slices that no run had corrected. `--check`: with both, Dice is no lower than
without either in any set, and higher in the mean.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import common
import numpy as np
from loop import COUNTS, corrected_slices
from sets import pairs_for, spread

import rau.assembly.carrying as carrying
from rau.corrections import Corrections
from rau.errors import RauError
from rau.evaluation.metrics import dice_of_values, mean, mean_of
from rau.evaluation.pairs import Pair
from rau.evaluation.tables import print_table
from rau.models.engine import Engine
from rau.pipeline import segment
from rau.settings import SegmentSettings
from rau.volume.orientation import canonical

VOLUMES = ("msd_hippocampus", "acdc_cine_mr")
WAYS = ("as found", "errors carried", "and the shape between")
Found = tuple[np.ndarray, carrying.Corrected, tuple[float, ...]]


def found_before(pair: Pair, engine: Engine, settings: SegmentSettings) -> tuple[dict[int, Found], np.ndarray]:
    """What `carried` was given for each number of corrected slices, and the truth, canonical (S, R, C)."""
    reference, target, truth = common.read_pair(pair)
    axis = segment([reference], target, settings, engine=engine).slices[0].axis
    given: dict[int, Found] = {}
    for count in COUNTS[1:]:
        with patch.object(carrying, "carried", wraps=carrying.carried) as watched:
            slices = Corrections(truth, axis, corrected_slices(truth, axis, count))
            segment([reference], target, settings, engine=engine, corrections=slices)
        labels, corrected, spacing = watched.call_args.args
        given[count] = (labels, corrected, tuple(spacing))
    return given, canonical(truth.array, truth.geometry)[0]


def by_ways(pair: Pair, engine: Engine, settings: SegmentSettings) -> dict[int, dict[str, float | None]]:
    """Dice of each way by number of corrected slices, over the slices that no run had corrected."""
    given, truth = found_before(pair, engine, settings)
    axis = given[COUNTS[1]][1].axis
    used = {index for _, corrected, _ in given.values() for index in corrected.slices}
    left = [index for index in range(truth.shape[axis]) if index not in used]
    told: dict[int, dict[str, float | None]] = {}
    for count, (labels, corrected, spacing) in given.items():
        with patch.object(carrying, "share_between", return_value=0.0):
            alone = carrying.carried(labels, corrected, spacing)
        ways = dict(zip(WAYS, (labels, alone, carrying.carried(labels, corrected, spacing)), strict=True))
        seen = {name: np.take(one, left, axis) for name, one in ways.items()}
        there = np.take(truth, left, axis)
        values = [int(value) for value in np.unique(truth) if value]
        told[count] = {name: mean_of(dice_of_values(there, one, values)) for name, one in seen.items()}
    return told


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--sets", default=",".join(VOLUMES), help=f"of volumes (default {','.join(VOLUMES)})")
    parser.add_argument("--limit", type=int, default=4, help="pairs of each set (default 4)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sets, arguments.limit = VOLUMES[0], 1
    rows, gains = [], []
    try:
        engine, settings = common.engine_for(arguments)
        for name in arguments.sets.split(","):
            outcomes = [by_ways(pair, engine, settings) for pair in spread(pairs_for(name), arguments.limit)]
            scores = {way: [mean([one[count][way] for one in outcomes]) for count in COUNTS[1:]] for way in WAYS}
            rows += [[name, way, *(common.number(value) for value in scores[way])] for way in WAYS]
            before, after = (float(np.mean([value or 0.0 for value in scores[way]])) for way in (WAYS[0], WAYS[-1]))
            gains.append(after - before)
            common.say(f"  {name}: {before:.3f} as found, {after:.3f} with both")
    except RauError as problem:
        return common.stop(problem)
    columns = ["set", "way", *(f"{count} corrected" for count in COUNTS[1:])]
    print_table("Dice of the slices that are not corrected", columns, rows)
    common.write_json(arguments.json, {"rows": rows})
    common.say(f"carrying brings {float(np.mean(gains)):+.3f} Dice, least {min(gains):+.3f} in a set")
    return int(arguments.check and (min(gains) < 0 or float(np.mean(gains)) <= 0))


if __name__ == "__main__":
    sys.exit(main())
