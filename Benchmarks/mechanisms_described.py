"""Description text in training (papers.md B3): does saying how a region looks, before naming it, help the VLM?

Two runs of `rau train sft` go on from the same VLM for the same time of the processor, with and without descriptions
in the answers of their labelling items (words measured from the mask, `rau.training.items.described`). The text is in
training alone: both are measured on the same validation items, which have none. Labelling (all tokens of the name
right), boxes beside copying the reference's, Dice of the coarse masks, presence (balanced accuracy). The same call
leaves out what is done.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import common
from mechanisms_routing import is_done, options_of, sources_of

from rau.errors import RauError
from rau.evaluation.datasets import find_data
from rau.evaluation.tables import Cell, print_table
from rau.models.store import find_model
from rau.training.sft import SftTraining, train
from rau.training.vlm_validation import validate
from rau.vlm.store import load_reasoner

VARIANTS = {"without": 0.0, "with descriptions": 0.6}
SHIPPED = "model it began from"
FIGURES = ("label", "box", "box copied", "dice", "presence")
EQUAL = 0.05  # of the time of a run: by so much may the other's differ


def settings_of(share: float, run: Path, arguments: Namespace) -> SftTraining:
    made = SftTraining(
        folder=str(run),
        start=arguments.model,
        shares="0.35,0.6,0.05",
        described=share,
        sight=0.0,
        ramp=0.0,
        rate=arguments.rate,
        warmup=10,
        every=0,
        seed=3,
        cpu_time=True,
    )
    return replace(made, steps=2, dialogues=2) if arguments.quick else replace(made, minutes=arguments.minutes)


def measured(arguments: Namespace, folder: Path) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Scores by row of the table, and the seconds of training. Raises RauError."""
    sources, rows, seconds = sources_of(arguments), {}, []
    batches = 1 if arguments.quick else arguments.batches
    rows[SHIPPED] = validate(load_reasoner(find_model(arguments.model) / "vlm"), sources.validation, batches)
    for name, share in VARIANTS.items():
        run = folder / f"described-{share:g}"
        settings = settings_of(share, run, arguments)
        if arguments.quick or not is_done(run, settings.minutes):
            for _ in train(settings, sources):
                pass
        seconds.append(float((run / "seconds").read_text()))
        rows[name] = validate(load_reasoner(run / "reasoner"), sources.validation, batches)
        common.say(f"  {name}: {seconds[-1]:.0f} s of the processor, label {common.number(rows[name].get('label'))}")
    return rows, seconds


def main() -> int:
    arguments = options_of(__doc__, minutes=8.0, rate=6e-4, anatomies=400, batches=6).parse_args()
    arguments.data = None if arguments.quick else arguments.data or find_data()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            rows, seconds = measured(arguments, Path(scratch) if arguments.quick else arguments.folder)
        common.write_json(arguments.json, {"minutes": arguments.minutes, "seconds": seconds, "rows": rows})
    except RauError as problem:
        return common.stop(problem)
    table: list[list[Cell]] = [[name, *(found.get(key) for key in FIGURES)] for name, found in rows.items()]
    print_table("Description text in training", ["", *FIGURES], table)
    without, told = (rows[name] for name in VARIANTS)
    gains = [f"{key} {told[key] - without[key]:+.3f}" for key in FIGURES if key in told and key != "box copied"]
    common.say(f"with descriptions, beside without: {', '.join(gains)}")
    apart = abs(seconds[0] - seconds[1]) > EQUAL * max(seconds)
    return int(apart and arguments.check and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
