"""What the benchmarks share: running a pair, timing, printing, writing figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rau.errors import RauError
from rau.evaluation.baselines import copied
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.pairs import Pair
from rau.models.engine import Engine, load_engine
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.results import SegmentResult
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume


@dataclass(frozen=True)
class Outcome:
    """What became of a pair. dice, copied: means over structures, None where nothing was to be found or drawn.

    seconds: for the segmentation alone, models loaded and files read. error: why there is no result, one line.
    """

    pair: str
    dice: float | None = None
    copied: float | None = None
    seconds: float = 0.0
    structures: dict[str, float | None] = field(default_factory=dict)
    error: str = ""

    def line(self) -> str:
        if self.error:
            return f"  {self.pair}: failed: {self.error}"
        return f"  {self.pair}: Dice {number(self.dice)}, copying {number(self.copied)}, {self.seconds:.1f} s"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def read_pair(pair: Pair) -> tuple[Reference, Volume, LabelMap]:
    """The reference, the target, and the truth, read as `rau segment` reads them."""
    target, truth = pair.target.read(image=pair.image)
    return Reference(*pair.reference.read()), target, truth


def run_pair(pair: Pair, engine: Engine, settings: SegmentSettings) -> tuple[Outcome, SegmentResult | None]:
    """Segment the target from the reference. Whatever goes wrong is told in the outcome: the others still run."""
    try:
        reference, target, truth = read_pair(pair)
        start = time.perf_counter()
        result = segment([reference], target, settings, engine=engine)
        seconds = time.perf_counter() - start
        by_name = dice_of_structures(truth, result.labels, reference.structures)
        copy = mean_of(dice_of_structures(truth, copied(reference, target), reference.structures))
        return Outcome(pair.label, mean_of(by_name), copy, seconds, by_name), result
    except RauError as problem:
        return Outcome(pair.label, error=str(problem)), None
    except Exception as problem:  # a benchmark reports a defect and goes on
        return Outcome(pair.label, error=f"{type(problem).__name__}: {' '.join(str(problem).split())}"), None


def means(outcomes: Iterable[Outcome]) -> tuple[float | None, float | None, float | None]:
    """Dice, Dice of copying, seconds: means over the pairs that ended well."""
    good = [one for one in outcomes if not one.error]
    return mean(one.dice for one in good), mean(one.copied for one in good), mean(one.seconds for one in good)


def options(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few pairs, in less than a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the claim does not hold")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    parser.add_argument("--model", default="auto", help="as in `rau segment`")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="as in `rau segment`")
    parser.add_argument("--planes", default="auto", choices=("auto", "acquisition", "all"), help="as in `rau segment`")
    return parser


def engine_for(arguments: argparse.Namespace) -> tuple[Engine, SegmentSettings]:
    settings = SegmentSettings(model=arguments.model, device=arguments.device, planes=arguments.planes)
    return load_engine(settings), settings


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures whole or not at all; nothing without a path."""
    if path is None:
        return
    with tempfile.NamedTemporaryFile("w", dir=path.resolve().parent, suffix=".part", delete=False) as file:
        json.dump(figures, file, indent=1)
        file.write("\n")
    os.replace(file.name, path)


def say(text: str) -> None:
    print(text, flush=True)


def stop(problem: RauError) -> int:
    """One line for what the user can mend."""
    print(f"Error: {problem}", file=sys.stderr)
    return problem.exit_code
