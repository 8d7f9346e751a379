"""What adaptation at the moment of use brings, on validation tasks: each part alone, and beside training the network.

Pictures of the validation tasks (see `validation_tasks.py`); the volumes among them with `--volumes`. Variants: copying
the mask; the network alone; with the registered prior; with the expert as well (the default; of a model with a pixel
encoder, beside experts of filters alone); and the network itself trained for 20 steps on the reference (decoder, LoRA,
or all of it), as it is and with what the default has.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common import say, write_json
from tuning import WAYS, tuned
from validation_tasks import Task, slices, tasks

from rau.evaluation.baselines import copied
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.tables import print_table
from rau.models.engine import Engine, load_engine
from rau.pipeline import segment
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap

DEFAULT = "+ expert (default)"
GAIN = 0.10  # Dice that the default must bring over the network alone
SECONDS, ALONE_SECONDS = 3.0, 0.3  # a picture, at most: by default, by the network alone
ALONE = "network alone"


def variants(engine: Engine, settings: SegmentSettings, tuning: bool) -> dict[str, Callable[[Task], LabelMap]]:
    """Name -> what makes a label map of a task."""

    plain = replace(engine, pixels=None)

    def run(registration: str, adaptation: str, way: str = "", base: Engine = engine) -> Callable[[Task], LabelMap]:
        chosen = settings.model_copy(update={"registration": registration, "adaptation": adaptation})

        def one(task: Task) -> LabelMap:
            used = tuned(engine, task, way) if way else base
            return segment([task.reference], task.target, chosen, engine=used).labels

        return one

    found: dict[str, Callable[[Task], LabelMap]] = {
        "copying": lambda task: copied(task.reference, task.target),
        ALONE: run("off", "off"),
        "+ registered prior": run("auto", "off"),
        "expert without registration": run("off", "auto"),
        **({"expert of filters alone": run("auto", "auto", base=plain)} if engine.pixels else {}),
        DEFAULT: run("auto", "auto"),
    }
    if tuning:
        found.update({f"network alone, {way} trained": run("off", "off", way) for way in WAYS})
        found["default, decoder trained"] = run("auto", "auto", "decoder")
    return found


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one task of each group and no training of the network")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--first", action="store_true", help="one task of each group, all variants")
    parser.add_argument("--volumes", action="store_true", help="volumes too; the network is then not trained")
    parser.add_argument(
        "--slices", action="store_true", help="slices of real volumes instead, for models that were trained without"
    )
    parser.add_argument("--model", default="auto", help="as in `rau segment`")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    settings = SegmentSettings(model=arguments.model)
    short = arguments.quick or arguments.volumes or arguments.slices
    ways = variants(load_engine(settings), settings, not short)
    scores: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    chosen = slices() if arguments.slices else tasks(quick=arguments.quick or arguments.first)
    for task in chosen:
        if task.target.array.shape[0] > 1 and not arguments.volumes:
            continue
        if not seconds[DEFAULT]:  # as in a worker: what the first run alone loads is not timed
            ways[DEFAULT](task)
        row = scores.setdefault(task.group, {name: [] for name in ways})
        for name, way in ways.items():
            start = time.perf_counter()
            labels = way(task)
            seconds[name].append(time.perf_counter() - start)
            row[name].append(mean_of(dice_of_structures(task.truth, labels, task.reference.structures)) or 0.0)
    rows = [[group, *(mean(row[name]) for name in ways)] for group, row in scores.items()]
    means = [mean(row[k + 1] for row in rows) or 0.0 for k in range(len(ways))]
    spent = [mean(seconds[name]) or 0.0 for name in ways]
    print_table("Mean Dice by group", ["group", *ways], [*rows, ["mean", *means], ["s a task", *spent]])
    write_json(arguments.json, {"groups": scores, "seconds": seconds})
    figure, times = dict(zip(ways, means, strict=True)), dict(zip(ways, spent, strict=True))
    gain = figure[DEFAULT] - figure[ALONE]
    slow = not arguments.volumes and (times[DEFAULT] > SECONDS or times[ALONE] > ALONE_SECONDS)
    say(f"adaptation: {gain:+.3f} Dice over the network alone, {times[DEFAULT]:.1f} s a task ({times[ALONE]:.2f} s)")
    return int(arguments.check and (gain < GAIN or slow))


if __name__ == "__main__":
    sys.exit(main())
