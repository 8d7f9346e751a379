"""One reference, one target, 3-D: both parts of the hippocampus in MR, subjects that training never saw.

The last 30 cases of msd_hippocampus by name are held out; the pairs are case k -> case k + 1, the first 20 of them.
Beside `rau segment` stand copying the reference's mask (stretched onto the target) and ConvexAdam registration (PyPI
convexAdam), from the same starting point. Models are loaded before the clock starts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import common
import numpy as np
from scores import Score

from rau.errors import RauError
from rau.evaluation.baselines import CONVEX_ADAM, COPYING
from rau.evaluation.datasets import held_out_cases
from rau.evaluation.metrics import mean
from rau.evaluation.pairs import Pair, chain
from rau.evaluation.tables import print_table
from rau.results import SegmentResult

PAIRS = 20
QUICK = 3
REQUIRED = 0.78


def by_command(pair: Pair, arguments: Namespace) -> np.ndarray:
    """The same pair through `rau segment` in a process of its own. (S, R, C) label values."""
    from rau.volume.labels import read_labels

    script = Path(sys.executable).with_name("rau")
    start = (
        [str(script)]
        if script.exists()
        else [sys.executable, "-c", "import sys; from rau.cli import main; sys.exit(main())"]
    )
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.nii.gz"
        files = ["--reference", pair.reference.image_path, "--labels", pair.reference.labels_path]
        files += ["--target", pair.target.image_path, "--output", output]
        same = ["--model", arguments.model, "--device", arguments.device, "--planes", arguments.planes]
        subprocess.run([*start, "segment", *map(str, files), *same], check=True, capture_output=True)
        return read_labels(output).array


def same_by_command(pair: Pair, result: SegmentResult | None, arguments: Namespace) -> str:
    """Empty when the command line gives the same voxels; else what is wrong."""
    try:
        found = by_command(pair, arguments)
    except subprocess.CalledProcessError as problem:
        return (
            f"`rau segment` ended with {problem.returncode}: {problem.stderr.decode(errors='replace').strip()[-300:]}"
        )
    if result is None or found.shape != result.labels.array.shape:
        return "`rau segment` gives another grid"
    differing = int(np.count_nonzero(found != result.labels.array))
    return f"`rau segment` differs in {differing} voxels" if differing else ""


def row_of(outcome: common.Outcome) -> list[str | float | None]:
    """Pair, Dice of the three methods, seconds of the three; None where a method failed."""
    others = [outcome.baselines.get(one.name, Score(error="not run")) for one in (COPYING, CONVEX_ADAM)]
    seconds = [None if one.error else one.seconds for one in (outcome, *others)]
    return [outcome.pair, outcome.dice, *(one.dice for one in others), *seconds]


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"how many pairs (default {PAIRS})")
    arguments = parser.parse_args()
    try:
        pairs = chain(held_out_cases("msd_hippocampus"), QUICK if arguments.quick else arguments.pairs)
        engine, settings = common.engine_for(arguments)
    except RauError as problem:
        return common.stop(problem)
    rows, figures, problem = [], [], ""
    for place, pair in enumerate(pairs):
        outcome, result = common.run_pair(pair, engine, settings, lambda _: (COPYING, CONVEX_ADAM))
        common.say(outcome.line())
        if place == 0:
            problem = same_by_command(pair, result, arguments)
        rows.append(row_of(outcome))
        figures.append(asdict(outcome))
    average = [mean(row[column] for row in rows) for column in range(1, 7)]
    columns = ["pair", "rau segment", "copying", "ConvexAdam", "rau s", "copying s", "ConvexAdam s"]
    print_table("Dice and seconds", columns, [*rows, ["mean", *average]])
    failed = sum(bool(one["error"]) for one in figures)
    common.say(problem or f"`rau segment` gives the same voxels as the engine ({pairs[0].label})")
    names = ("dice", "copying", "convex_adam", "seconds", "copying_seconds", "convex_adam_seconds")
    told = {"pairs": figures, "means": dict(zip(names, average)), "versions": engine.versions()}
    common.write_json(arguments.json, told)
    figure = average[0] or 0.0
    common.say(
        f"mean Dice {figure:.3f} (copying {common.number(average[1])}, ConvexAdam {common.number(average[2])}) over "
        f"{len(rows) - failed} of {len(rows)} pairs, {common.number(average[3])} s a pair"
    )
    return int(arguments.check and (figure < REQUIRED or failed > 0 or bool(problem)))


if __name__ == "__main__":
    sys.exit(main())
