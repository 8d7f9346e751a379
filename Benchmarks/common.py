"""What the benchmarks share: running a pair, timing, printing, writing figures."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scores import Kept, Score, scores_of, write_whole

from rau.errors import RauError
from rau.evaluation.baselines import BASELINES, Baseline
from rau.evaluation.metrics import dice_of_structures, mean_of
from rau.evaluation.pairs import Pair
from rau.models.engine import Engine, load_engine
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.results import SegmentResult
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume


@dataclass(frozen=True)
class Outcome:
    """What became of a pair. dice: mean over structures, None where nothing was to be found or drawn.

    seconds: for the segmentation alone, models loaded and files read. error: why there is no result, one line.
    baselines: their scores by name, of those that take such images.
    """

    pair: str
    dice: float | None = None
    seconds: float = 0.0
    structures: dict[str, float | None] = field(default_factory=dict)
    error: str = ""
    baselines: dict[str, Score] = field(default_factory=dict)

    def line(self) -> str:
        told = f"failed: {self.error}" if self.error else f"Dice {number(self.dice)} in {self.seconds:.1f} s"
        return "; ".join([f"  {self.pair}: {told}", *(_told(name, one) for name, one in self.baselines.items())])


def _told(name: str, score: Score) -> str:
    title = next((one.title for one in BASELINES if one.name == name), name)
    if score.error:
        return f"{title} failed: {score.error}"
    return f"{title} {number(score.dice)}" + (" (kept)" if score.cached else f" in {score.seconds:.1f} s")


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def read_pair(pair: Pair) -> tuple[Reference, Volume, LabelMap]:
    """The reference, the target, and the truth, read as `rau segment` reads them."""
    target, truth = pair.target.read(image=pair.image)
    return Reference(*pair.reference.read()), target, truth


def run_pair(
    pair: Pair,
    engine: Engine,
    settings: SegmentSettings,
    baselines: Callable[[Volume], Sequence[Baseline]] = lambda _: (),
    kept: Kept | None = None,
) -> tuple[Outcome, SegmentResult | None]:
    """Segment the target from the reference, then run the baselines. Whatever goes wrong is told: the others still run.

    baselines: which ones, for this target. kept: their scores of earlier runs.
    """
    result = None
    try:
        read = read_pair(pair)
        outcome, result = _segmented(pair, read, engine, settings)
        return replace(outcome, baselines=scores_of(pair, read, baselines(read[1]), kept or Kept())), result
    except Exception as problem:  # a pair that cannot be read, or a file of scores that cannot be written
        return Outcome(pair.label, error=_line(problem)), result


def _segmented(
    pair: Pair, read: tuple[Reference, Volume, LabelMap], engine: Engine, settings: SegmentSettings
) -> tuple[Outcome, SegmentResult | None]:
    reference, target, truth = read
    try:
        start = time.perf_counter()
        result = segment([reference], target, settings, engine=engine)
        seconds = time.perf_counter() - start
        by_name = dice_of_structures(truth, result.labels, reference.structures)
        return Outcome(pair.label, mean_of(by_name), seconds, by_name), result
    except Exception as problem:  # a benchmark reports a defect and goes on
        return Outcome(pair.label, error=_line(problem)), None


def _line(problem: Exception) -> str:
    return (
        str(problem) if isinstance(problem, RauError) else f"{type(problem).__name__}: {' '.join(str(problem).split())}"
    )


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
    """Write the figures whole or not at all; nothing without a path. Raises InputError."""
    if path is not None:
        write_whole(path, figures)


def say(text: str) -> None:
    print(text, flush=True)


def stop(problem: RauError) -> int:
    """One line for what the user can mend."""
    print(f"Error: {problem}", file=sys.stderr)
    return problem.exit_code
