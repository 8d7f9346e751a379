"""What RCMed's way back, from language to vision, brings to SAM2's masks: memory only, one-way, two-way both ways.

Three run folders of `rau train fusion`, trained alike (same settings, seed and time) but for --two-way: off (one-way),
released (the states at the target's picture as they come) and conditioned (read again after question and answer). With
--quick those that are not given are trained for a few seconds each, which shows that all works, not what it brings.
Items are those of `rau_tables.py`, in and out of distribution. Dice: mean over the sources of each source's mean; gIoU:
mean IoU over all structures; gain: Dice of the same structures over one-way, mean and standard error. "untrained": the
greatest change of a mask logit when the projection of a run is put back to the zero it began with; it has to be none.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import rau_masks as masks
import torch
from common import number
from rau_bench import Bench
from rau_tasks import Group, batch_of

from rau.errors import InputError, RauError
from rau.evaluation.tables import Cell, print_table
from rau.models.store import find_model
from rau.sam.segmenter import Segmenter
from rau.sam.two_way import TWO_WAYS, TwoWay
from rau.training.fusion_objective import answer, see
from rau.training.fusion_outcome import load_fusion

MEMORY = "memory only"
TITLES: dict[TwoWay, str] = {"off": "one-way", "released": "two-way, released", "conditioned": "two-way, conditioned"}
CLEAR = 0.005  # Dice over one-way from which it would be worth its time
QUICK_MINUTES = 0.15  # of training, each
COLUMNS = ["group", "variant", "structures", "Dice", "gIoU", "gain", "±", "ms an item"]


@dataclass(frozen=True)
class Measured:
    """A variant on a group. dice, iou: of each structure that is there, in one order for all variants; source: alike.

    seconds: of the processor, for asking the VLM and decoding, an item.
    """

    dice: tuple[float, ...]
    iou: tuple[float, ...]
    source: tuple[str, ...]
    seconds: float

    @property
    def mean_dice(self) -> float:
        known = {name: [d for d, s in zip(self.dice, self.source, strict=True) if s == name] for name in self.source}
        return float(np.mean([np.mean(values) for values in known.values()]))

    @property
    def giou(self) -> float:
        return float(np.mean(self.iou))

    def gain(self, over: Measured) -> tuple[float, float]:
        """Mean and standard error of the difference, structure by structure."""
        apart = np.subtract(self.dice, over.dice)
        return float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else 0.0


def measured(group: Group, speaker: masks.Speaker, plain: Segmenter, way: str) -> Measured:
    start = time.process_time()
    found = [one for one in masks.outcomes(group, speaker, plain, [way]) if one.present]
    seconds = (time.process_time() - start) / max(1, len(group.items()))
    numbers = [tuple(known[way] for known in column) for column in zip(*((one.dice, one.iou) for one in found))]
    dice, iou = numbers or ((), ())
    return Measured(dice, iou, tuple(one.source for one in found), seconds)


def settings_of(run: Path) -> dict[str, Any]:
    """How a run was trained. Raises ModelError."""
    return dict(load_fusion(run / "fusion").record.get("settings", {}))


def unlike(runs: Mapping[TwoWay, Path]) -> list[str]:
    """Settings in which the runs differ, beside the way back: their comparison means nothing then. Raises InputError.

    A run of another way than it is given as is refused.
    """
    known = {way: settings_of(run) for way, run in runs.items()}
    for way, settings in known.items():
        if settings.get("two_way", "off") != way:
            raise InputError(f"{runs[way].name} is no run with --two-way {way}", "Give each run by its own option")
    keys = sorted({key for settings in known.values() for key in settings} - {"two_way"})
    return [key for key in keys if len({str(settings.get(key)) for settings in known.values()}) > 1]


def train(arguments: Namespace, way: TwoWay, folder: Path) -> Path:
    """A short run on synthetic anatomies."""
    from rau.training.fusion import FusionTraining
    from rau.training.fusion import train as trained

    settings = FusionTraining(
        str(folder / way),
        str(find_model(arguments.model) / "vlm"),
        arguments.model,
        minutes=QUICK_MINUTES,
        cpu_time=True,
        two_way=way,
        loss="rcmed",
        dialogues=2,
        structures=3,
        warmup=2,
        every=10**6,
        checks=1,
        anatomies=8,
        cache=str(folder / "cache"),
    )
    list(trained(settings))
    return folder / way


@torch.no_grad()
def untrained_change(group: Group, speaker: masks.Speaker, plain: Segmenter) -> float:
    """Greatest change of a mask logit by a projection that is back at zero, on the first items of each source."""
    if speaker.fusion is None or speaker.fusion.back is None or speaker.segmenter is None:
        raise InputError("A run without the way back has nothing to switch on", "Give runs with --two-way")
    last, greatest = speaker.fusion.back.layers[-1], 0.0
    kept = [one.clone() for one in last.parameters()]
    for one in last.parameters():
        one.zero_()
    for items in group.sources.values():
        batch, numbered = batch_of(items[:2])
        scene = see(plain, batch_of(items[:2], plain.size)[0], speaker.told(batch, numbered))
        on = answer(speaker.segmenter, speaker.fusion, scene).masks.logits
        back, speaker.fusion.back = speaker.fusion.back, None
        off = answer(speaker.segmenter, speaker.fusion, scene).masks.logits
        speaker.fusion.back = back
        greatest = max(greatest, float((on - off).abs().max()))
    for one, value in zip(last.parameters(), kept, strict=True):
        one.copy_(value)
    return greatest


def table(found: Mapping[str, Mapping[str, Measured]]) -> list[list[Cell]]:
    """A line a group and variant."""
    rows: list[list[Cell]] = []
    for group, variants in found.items():
        for name, one in variants.items():
            over = variants.get(TITLES["off"])
            gain = (None, None) if over is None or name == TITLES["off"] else one.gain(over)
            rows.append([group, name, len(one.dice), one.mean_dice, one.giou, *gain, 1000 * one.seconds])
    return rows


def judged(found: Mapping[str, Mapping[str, Measured]]) -> list[tuple[str, float, float, bool]]:
    """(what, gain, its error, whether it helps clearly): by CLEAR, and by twice the error."""
    lines = []
    for group, variants in found.items():
        for name in (TITLES["released"], TITLES["conditioned"]):
            if name in variants and TITLES["off"] in variants:
                gain, error = variants[name].gain(variants[TITLES["off"]])
                lines.append((f"{name} over one-way, {group}", gain, error, gain >= max(CLEAR, 2 * error)))
    return lines


def all_measured(bench: Bench, runs: Mapping[TwoWay, Path]) -> tuple[dict[str, dict[str, Measured]], float]:
    """By group and variant; and the greatest change by a projection at zero."""
    vlm = [find_model(bench.arguments.model) / "vlm"]
    speakers = {way: masks.trained_fusion(run, vlm, bench.arguments.model) for way, run in runs.items()}
    found: dict[str, dict[str, Measured]] = {}
    for group in bench.groups:
        asked = replace(next(iter(speakers.values())), fusion=None, row=None)
        known = {MEMORY: measured(group, asked, bench.plain, masks.MEMORY)}
        known |= {TITLES[way]: measured(group, one, bench.plain, masks.FUSION) for way, one in speakers.items()}
        for name, one in known.items():
            common.say(f"  {group.name}, {name}: Dice {one.mean_dice:.4f}, gIoU {one.giou:.4f}")
        found[group.name] = known
    back = [one for way, one in speakers.items() if way != "off"]
    return found, max((untrained_change(bench.groups[0], one, bench.plain) for one in back), default=0.0)


def parser() -> ArgumentParser:
    made = ArgumentParser(description=__doc__)
    made.add_argument("--quick", action="store_true", help="a few items; runs that are not given are trained shortly")
    made.add_argument(
        "--check", action="store_true", help="exit with 1 when a projection at zero changes anything, or runs differ"
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--model", default="rau-mini", help="name or folder of the model (default rau-mini)")
    for way in TWO_WAYS:
        name = "one-way" if way == "off" else way
        made.add_argument(f"--{name}", type=Path, metavar="RUN", help=f"run folder, trained with --two-way {way}")
    made.add_argument("--items", type=int, default=0, help="items a source (default 24; 3 with --quick)")
    made.add_argument("--cache", type=Path, metavar="FOLDER", help="where random anatomies are kept (default: nowhere)")
    made.set_defaults(sft=None, grpo=None, grpo_boxes=None, fusion=None)
    return made


def runs_of(arguments: Namespace, scratch: Path) -> dict[TwoWay, Path]:
    """The runs that were given; in a quick run the others are trained now. Raises InputError."""
    given = {"off": arguments.one_way, "released": arguments.released, "conditioned": arguments.conditioned}
    runs: dict[TwoWay, Path] = {}
    for way in TWO_WAYS:
        if given[way] is not None:
            runs[way] = given[way]
        elif arguments.quick:
            runs[way] = train(arguments, way, scratch)
    if not runs:
        raise InputError("There is no run to measure", "Give --one-way, --released, --conditioned, or --quick")
    return runs


def concluded(found: Mapping[str, Mapping[str, Measured]], change: float, differing: Sequence[str], check: bool) -> int:
    """Print the table, what helps, the figure; the exit status."""
    print_table("Language to vision", COLUMNS, table(found))
    if differing:
        common.say(f"The runs were not trained alike: {', '.join(differing)}")
    common.say(f"Untrained, the projection changes a mask logit by {change:g}")
    lines = judged(found)
    for told, gain, error, clear in lines:
        common.say(f"  {'helps' if clear else 'does not help clearly'}: {told}: {gain:+.4f} ± {error:.4f} Dice")
    told = [
        f"{name} {', '.join(number(variants[name].mean_dice) for variants in found.values() if name in variants)}"
        for name in (MEMORY, *TITLES.values())
    ]
    common.say(f"Dice ({', '.join(found)}): {'; '.join(told)}")
    return int(check and (change != 0 or bool(differing)))


def main() -> int:
    arguments = parser().parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            runs = runs_of(arguments, Path(scratch))
            differing = unlike(runs)
            found, change = all_measured(Bench(arguments), runs)
        told = {group: {name: vars(one) for name, one in known.items()} for group, known in found.items()}
        common.write_json(arguments.json, {"groups": told, "untrained": change, "differing": differing})
    except RauError as problem:
        return common.stop(problem)
    return concluded(found, change, differing, arguments.check)


if __name__ == "__main__":
    sys.exit(main())
