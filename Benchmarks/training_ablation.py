"""What each part of the training gives: runs of `rau train segmenter` at equal processor time, one after the other.

Parts of the mixture (random anatomies alone; label maps beside them; real pictures too), a DINOv2 teacher where
--teacher names one, and the size of model and input. Each run has its folder, and the learning rate falls by the
clock; the same call goes on where it ended and leaves out what is done. Scores: mean Dice over validation tasks that
are the same for all variants (seeded; drawn at the variant's own image size), of the averaged weights at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import common

from rau.errors import RauError
from rau.evaluation.datasets import find_data
from rau.evaluation.tables import Cell, print_table

ALONE, FULL = "anatomies", "full mixture"
ENDLESS = 10**9  # steps: the clock ends the run


@dataclass(frozen=True)
class Variant:
    """A name, and the options of `rau train segmenter` that make it. needs_teacher: left out without --teacher."""

    name: str
    options: tuple[str, ...] = ()
    needs_teacher: bool = False

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")


VARIANTS = (
    Variant(ALONE, ("--sources", "anatomies")),
    Variant("and label maps", ("--sources", "anatomies,labelmaps")),
    Variant(FULL),
    Variant("and teacher", needs_teacher=True),
    Variant("smaller model", ("--width", "64", "--embed-dim", "16", "--stages", "1,1,3,1")),
    Variant("larger model", ("--width", "160", "--embed-dim", "48", "--stages", "1,2,5,2")),
    Variant("larger input", ("--image-size", "256")),
)
QUICK = (ALONE, FULL)


@dataclass(frozen=True)
class Result:
    """mean, dice: validation Dice, over the sources and of each. parameters: of SAM2. seconds: training time.

    error: why there is no result, one line.
    """

    name: str
    mean: float | None = None
    dice: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    steps: int = 0
    seconds: float = 0.0
    error: str = ""

    def line(self) -> str:
        if self.error:
            return f"  {self.name}: failed: {self.error}"
        pace = self.seconds / max(1, self.steps)
        return f"  {self.name}: mean Dice {common.number(self.mean)}, {self.steps} steps, {pace:.2f} s a step"

    def row(self, sources: list[str]) -> list[Cell]:
        scores: list[Cell] = [self.dice.get(name) for name in sources]
        pace = self.seconds / self.steps if self.steps else None
        return [self.name, self.mean, *scores, self.parameters or None, self.steps or None, pace]


def options_of(variant: Variant, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """The call of `rau train segmenter` for a variant in its folder."""
    made = ["--folder", str(folder / variant.folder), "--cache", str(folder / "cache"), *variant.options]
    made += ["--ramp", str(arguments.ramp), "--seed", str(arguments.seed)]
    if arguments.data:
        made += ["--data", str(arguments.data)]
    if variant.needs_teacher:
        made += ["--teacher", str(arguments.teacher)]
    if arguments.bf16:
        made += ["--bf16"]
    if arguments.quick:
        few = ("--steps", "3", "--every", "3", "--frames", "4", "--anatomies", "6", "--image-size", "64")
        return [*made, *few]
    made += ["--minutes", str(arguments.minutes), "--by-clock", "--cpu-time", "--steps", str(ENDLESS)]
    return [*made, "--every", str(arguments.every), "--anatomies", str(arguments.anatomies)]


def train(options: list[str], threads: int) -> str:
    """Run `rau train segmenter`; empty when it went well, else its last line."""
    start = [sys.executable, "-c", "import sys; from rau.cli import main; sys.exit(main())", "train", "segmenter"]
    told = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run([*start, *options], capture_output=True, text=True, env={**os.environ, **told})
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]


def is_done(run: Path, minutes: float) -> bool:
    """Whether the run in the folder has had its training time."""
    from rau.training import checkpoint

    state = run / "state.safetensors"
    return state.is_file() and float(checkpoint.info_of(state)["seconds"]) >= 60 * minutes


def result_of(name: str, run: Path) -> Result:
    """What the last validation in a run folder says."""
    from rau.sam.build import build_sam2
    from rau.training import checkpoint
    from rau.training.architecture import recorded

    with (run / "validation.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    dice = {key: float(last[key]) for key in last if f"{key} copied" in last}
    info, made = (
        checkpoint.info_of(run / "state.safetensors"),
        recorded(checkpoint.settings_of(run / "state.safetensors")),
    )
    parameters = sum(p.numel() for p in build_sam2(made.config, made.overrides).parameters())
    return Result(name, float(last["mean"]), dice, parameters, int(info["step"]), float(info["seconds"]))


def outcome(variant: Variant, folder: Path, arguments: argparse.Namespace) -> Result:
    """Train a variant unless it is done, and read its scores. Whatever goes wrong is told in the result."""
    run = folder / variant.folder
    try:
        if arguments.quick or not is_done(run, arguments.minutes):
            error = train(options_of(variant, folder, arguments), arguments.threads)
            if error:
                return Result(variant.name, error=error)
        return result_of(variant.name, run)
    except Exception as problem:  # a benchmark reports a defect and goes on
        return Result(variant.name, error=f"{type(problem).__name__}: {' '.join(str(problem).split())}")


def chosen(arguments: argparse.Namespace) -> list[Variant]:
    """The variants that the call names (or all), without those that cannot be."""
    names = [name.strip() for name in (arguments.variants or "").split(",") if name.strip()]
    unknown = set(names) - {one.name for one in VARIANTS}
    if unknown:
        raise RauError(f"No variant {sorted(unknown)[0]!r}", f"Take of: {', '.join(one.name for one in VARIANTS)}")
    wanted = names or (QUICK if arguments.quick else [one.name for one in VARIANTS])
    return [one for one in VARIANTS if one.name in wanted and (arguments.teacher or not one.needs_teacher)]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--quick", action="store_true", help="a few tiny steps of two variants, without the sets")
    made.add_argument("--check", action="store_true", help="exit with 1 when the claim does not hold")
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--folder", type=Path, default=Path("runs/ablation"), help="where the runs lie")
    made.add_argument("--variants", help="names of variants, with commas between them (default: all)")
    made.add_argument("--minutes", type=float, default=30.0, help="processor time of each (default 30)")
    made.add_argument("--threads", type=int, default=1, help="threads of each run (default 1)")
    made.add_argument("--data", type=Path, default=None, help="folder of the labelled sets (default: RAU_DATA)")
    made.add_argument("--teacher", type=Path, default=None, help="folder of a DINOv2 in the format of transformers")
    made.add_argument("--bf16", action="store_true", help="as in `rau train segmenter`")
    made.add_argument("--ramp", type=int, default=500, help="as in `rau train segmenter` (default 500)")
    made.add_argument("--every", type=int, default=500, help="steps between validations (default 500)")
    made.add_argument("--anatomies", type=int, default=1200, help="random anatomies (default 1200)")
    made.add_argument("--seed", type=int, default=0, help="as in `rau train segmenter`")
    return made


def verdict(results: list[Result], quick: bool) -> tuple[str, bool]:
    """The last line, and whether the claim holds: all ran, and the full mixture beats random anatomies alone."""
    means = {one.name: one.mean for one in results}
    ran = sum(not one.error for one in results)
    alone, full = means.get(ALONE), means.get(FULL)
    line = (
        f"mean validation Dice {common.number(full)} with the full mixture, {common.number(alone)} with random "
        f"anatomies alone; {ran} of {len(results)} variants ran"
    )
    better = quick or alone is None or full is None or full > alone
    return line, ran == len(results) and better


def main() -> int:
    arguments = parser().parse_args()
    arguments.data = None if arguments.quick else arguments.data or find_data()
    try:
        variants = chosen(arguments)
    except RauError as problem:
        return common.stop(problem)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if arguments.quick else arguments.folder
        for variant in variants:
            start = time.perf_counter()
            results.append(outcome(variant, folder, arguments))
            common.say(f"{results[-1].line()} ({time.perf_counter() - start:.0f} s with reading and validation)")
    sources = list(dict.fromkeys(name for one in results for name in one.dice))
    columns = ["variant", "mean", *sources, "parameters", "steps", "s a step"]
    print_table("Validation Dice at equal processor time", columns, [one.row(sources) for one in results])
    line, holds = verdict(results, arguments.quick)
    figures = [{**one.__dict__} for one in results]
    common.write_json(arguments.json, {"minutes": arguments.minutes, "threads": arguments.threads, "variants": figures})
    common.say(line)
    return int(arguments.check and not holds)


if __name__ == "__main__":
    sys.exit(main())
