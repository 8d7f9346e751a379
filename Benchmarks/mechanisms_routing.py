"""Task routing (papers.md C2): one model and one answer for names, boxes, outlines and looks, beside separate ones.

Four runs of `rau train sft` go on from the same VLM, one after the other: routed items that ask for everything, and
boxes, names, outlines alone, each with a third of the processor's time. The same call leaves out what is done. Measured
on items of the validation sources that are the same for all: box IoU (at `<Det>`), presence and look (balanced
accuracy; of separate questions none is about looks, there the size in the reference decides), Dice of the coarse masks,
modality and structure of a marked region (all tokens right, teacher-forced), processor seconds a target for everything.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import common
import numpy as np
import torch
from transformers.trainer_utils import get_last_checkpoint

from rau.errors import RauError
from rau.evaluation.datasets import find_data
from rau.evaluation.tables import Cell, print_table
from rau.models.store import find_model
from rau.training.data import Anatomies, Mixture
from rau.training.items import collate
from rau.training.routed_items import RoutedItem, collate_routed
from rau.training.routed_validation import Tally, copied_scores, drawn, routed_scores, with_asks
from rau.training.sets import Mixtures, mixtures
from rau.training.sft import SftTraining, train
from rau.training.vlm_objective import CUED
from rau.training.vlm_validation import paired_iou, right_answers
from rau.vlm.asking import generate
from rau.vlm.routed_cues import routed_cues, token_ids
from rau.vlm.routing import ASKS, Ask
from rau.vlm.store import Loaded, load_reasoner

ROUTED, SEPARATE, ALONE = "one routed answer", "separate models", "routed model, asked one by one"
SHIPPED, COPIED = "model it began from", "the reference's own"
FIGURES = ("box", "presence", "dice", "modality", "modality known", "structure", "name", "look")
APART = 0.02  # of a figure: below that two are told as alike
EQUAL = 0.05  # of the routed run's time: by so much may that of the separate ones, together, differ from it
TIMED = 6  # targets that are timed
AT_ONCE = 8


@dataclass(frozen=True)
class Variant:
    """A run. asks: what its items ask for; part: of the minutes."""

    name: str
    asks: tuple[Ask, ...]
    part: float = 1 / 3


VARIANTS = (
    Variant("routed", ASKS, 1.0),
    Variant("boxes", ("box",)),
    Variant("names", ("name",)),
    Variant("outlines", ("outline",)),
)


def settings_of(variant: Variant, run: Path, arguments: Namespace) -> SftTraining:
    """How a variant is trained in its folder."""
    made = SftTraining(
        folder=str(run),
        start=arguments.model,
        shares="0,0,0,1",
        asks=",".join(variant.asks),
        sight=0.0,
        ramp=0.0,
        rate=arguments.rate,
        warmup=10,
        every=0,
        bf16=arguments.bf16,
        cpu_time=True,
    )
    if arguments.quick:
        return replace(made, steps=2, dialogues=2)
    return replace(made, minutes=arguments.minutes * variant.part)


def sources_of(arguments: Namespace) -> Mixtures:
    """What all runs learn from and are measured on; a handful of random anatomies for a quick call."""
    if arguments.quick:
        alone = Mixture((("anatomies", 1.0, Anatomies(0, 4)),))
        return Mixtures(alone, alone, alone, alone)
    return mixtures(arguments.data, 0, arguments.cache or arguments.folder / "routing-cache", arguments.anatomies)


def is_done(run: Path, minutes: float) -> bool:
    """Whether the run in the folder has had its training time."""
    clock = run / "seconds"
    return (run / "reasoner").is_dir() and clock.is_file() and float(clock.read_text()) >= 60 * minutes


def trained(variant: Variant, folder: Path, arguments: Namespace, sources: Mixtures) -> tuple[Loaded, float]:
    """The reasoner of a variant, trained unless it was, and the seconds that took. Raises RauError."""
    run = folder / f"routing-{variant.name}"
    settings = settings_of(variant, run, arguments)
    if arguments.quick or not is_done(run, settings.minutes):
        for _ in train(settings, sources):
            pass
    last, seconds = get_last_checkpoint(str(run)), float((run / "seconds").read_text())
    steps = 0 if last is None else int(last.rpartition("-")[2])
    common.say(f"  {variant.name}: {steps} steps in {seconds:.0f} s of the processor")
    loaded = load_reasoner(run / "reasoner")
    loaded.reasoner.eval().requires_grad_(False)
    return loaded, seconds


@torch.no_grad()
def plain_scores(loaded: Loaded, items: Sequence[RoutedItem]) -> dict[str, float]:
    """Of a VLM with its own questions (segments, labels), on the same structures and regions."""
    tally, every = Tally(), [item.item for item in items if not item.marked]
    for start in range(0, len(every), AT_ONCE):
        rng = np.random.default_rng(1)
        ready = collate(every[start : start + AT_ONCE], loaded.processor, loaded.cells, rng, loaded.convention)
        cues = loaded.reasoner.cues(loaded.reasoner.read(ready["inputs"]), *(ready[key] for key in CUED))
        here = ready["present"]
        tally.side("presence", cues.presence > 0, here)
        tally.note("box", paired_iou(cues.boxes[here], ready["boxes"][here]).tolist())
        found, truth = (cues.masks[here] > 0).float().flatten(1), ready["masks"][here].flatten(1)
        tally.note("dice", (2 * (found * truth).sum(1) / (found.sum(1) + truth.sum(1)).clamp(min=1e-6)).tolist())
    marked = [item.item for item in items if item.marked]
    for start in range(0, len(marked), AT_ONCE):
        some = marked[start : start + AT_ONCE]
        ready = collate(some, loaded.processor, loaded.cells, np.random.default_rng(0), loaded.convention)
        hidden = loaded.reasoner.read(ready["inputs"]).hidden
        tally.note("structure", right_answers(loaded, hidden, ready["labels"]))
    return tally.means()


def one_by_one(models: dict[str, Loaded], items: Sequence[RoutedItem]) -> dict[str, float]:
    """Each ability by its own model and question. models: by variant. Presence is that of the outlines."""
    boxes = routed_scores(models["boxes"], with_asks(items, ("box",), False))
    names = routed_scores(models["names"], with_asks(items, ("name",), True))
    outlines = routed_scores(models["outlines"], with_asks(items, ("outline",), False))
    looks = {"look": copied_scores(items)["look"], "presence by boxes": boxes["presence"]}
    return {**names, "box": boxes["box"], "dice": outlines["dice"], "presence": outlines["presence"], **looks}


@torch.no_grad()
def seconds_of(loaded: Loaded, items: Sequence[RoutedItem], asks: Sequence[Sequence[Ask]]) -> float:
    """Of the processor, to read one target for each of `asks`, in the mean over some targets."""
    ids, spent = token_ids(loaded.processor.tokenizer), []
    for item in [item for item in items if not item.marked][:TIMED]:
        start = time.process_time()
        for some in asks:
            one = replace(item, asks=tuple(some))
            ready = collate_routed([one], loaded.processor, loaded.cells, np.random.default_rng(0), 0.0)
            routed_cues(loaded.reasoner, loaded.reasoner.read(ready["inputs"]), ready["routed"], ids)
        spent.append(time.process_time() - start)
    return float(np.mean(spent))


def seconds_written(loaded: Loaded, items: Sequence[RoutedItem]) -> float:
    """Of the processor, to write the routed answer of a target word by word."""
    spent = []
    for item in [item for item in items if not item.marked][:TIMED]:
        start = time.process_time()
        generate(loaded, item.dialogue(answered=False))
        spent.append(time.process_time() - start)
    return float(np.mean(spent))


def concluded(rows: dict[str, dict[str, float]], seconds: dict[str, float]) -> bool:
    """Print the table, what is better and worse, and the figure. Whether the runs had the same time.

    seconds: of training, by variant.
    """
    table: list[list[Cell]] = [[name, *(found.get(key) for key in (*FIGURES, "s"))] for name, found in rows.items()]
    print_table("Task routing", ["", *FIGURES, "s a target"], table)
    one, other = rows[ROUTED], rows[SEPARATE]
    gains = {key: one[key] - other[key] for key in FIGURES if key in one and key in other}
    better, worse = ([key for key in gains if sign * gains[key] > APART] for sign in (1, -1))
    common.say(
        f"  one answer is better in: {', '.join(better) or 'nothing'}; worse in: {', '.join(worse) or 'nothing'}"
    )
    if "s written" in one:
        common.say(f"  to write it takes {one['s written']:.2f} s of the processor more")
    whole, parts = seconds["routed"], sum(value for name, value in seconds.items() if name != "routed")
    told = [f"{key} {common.number(one.get(key))} ({common.number(other.get(key))})" for key in ("box", "dice", "name")]
    common.say(f"one routed answer (separate models, {parts:.0f} s as {whole:.0f} s): {', '.join(told)}")
    return abs(whole - parts) <= EQUAL * whole


def options_of(doc: str | None, minutes: float, rate: float, anatomies: int, batches: int) -> ArgumentParser:
    """What the scripts that train variants of the VLM take, with their defaults."""
    made = ArgumentParser(description=doc)
    made.add_argument("--quick", action="store_true", help="two tiny steps of each run, on random anatomies")
    made.add_argument("--check", action="store_true", help="exit with 1 when the runs had not the same time")
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--model", default="rau-mini", help="the model whose VLM the runs go on from")
    made.add_argument("--folder", type=Path, default=Path("runs"), help="where the runs lie, by their names")
    made.add_argument("--minutes", type=float, default=minutes, help=f"processor time of a run (default {minutes:g})")
    made.add_argument("--rate", type=float, default=rate, help=f"highest learning rate (default {rate:g})")
    made.add_argument("--data", type=Path, default=None, help="folder of the labelled sets (default: RAU_DATA)")
    made.add_argument("--anatomies", type=int, default=anatomies, help=f"random anatomies (default {anatomies})")
    made.add_argument("--cache", type=Path, default=None, help="where these are kept (default: beside the runs)")
    told = f"batches of eight targets of each source (default {batches})"
    made.add_argument("--batches", type=int, default=batches, help=told)
    return made


def parser() -> ArgumentParser:
    made = options_of(__doc__, minutes=4.0, rate=3e-4, anatomies=800, batches=2)
    made.add_argument("--bf16", action="store_true", help="as in `rau train sft`")
    return made


def measured(arguments: Namespace, folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The rows of the table, and the seconds of training by variant. Raises RauError."""
    sources = sources_of(arguments)
    made = {one.name: trained(one, folder, arguments, sources) for one in VARIANTS}
    models = {name: loaded for name, (loaded, _) in made.items()}
    routed, count = models["routed"], 1 if arguments.quick else arguments.batches
    items = drawn(sources.validation, ASKS, routed.picture, count, 4 if arguments.quick else AT_ONCE)
    common.say(f"  {len(items)} questions, {sum(item.marked for item in items)} of them about a marked region")
    shipped = load_reasoner(find_model(arguments.model) / "vlm")
    shipped.reasoner.eval().requires_grad_(False)
    rows = {
        COPIED: copied_scores(items),
        SHIPPED: plain_scores(shipped, items),
        SEPARATE: {**one_by_one(models, items), "s": seconds_of(routed, items, (("box",), ("outline",)))},
        ALONE: one_by_one(dict.fromkeys(models, routed), items),
        ROUTED: {
            **routed_scores(routed, items),
            "s": seconds_of(routed, items, (ASKS,)),
            "s written": seconds_written(routed, items),
        },
    }
    return rows, {name: seconds for name, (_, seconds) in made.items()}


def main() -> int:
    arguments = parser().parse_args()
    arguments.data = None if arguments.quick else arguments.data or find_data()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            rows, seconds = measured(arguments, Path(scratch) if arguments.quick else arguments.folder)
        common.write_json(arguments.json, {"minutes": arguments.minutes, "seconds": seconds, "rows": rows})
    except RauError as problem:
        return common.stop(problem)
    return int(not concluded(rows, seconds) and arguments.check and not arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
