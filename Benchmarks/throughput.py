"""Seconds a slice of RAUSlicer's walk through a volume beside `sam2`'s own SAM2VideoPredictor, and equality first.

sam2.1_hiera_tiny at 512 pixels with the same seeded weights; the same slices; slice 0 carries the masks. Every slice is
done by the predictor and by each of our modes in turn, so that all meet the same machine; processor time, one thread.
exact: the same answers, with as many neighbours as the predictor. one neighbour, pooled, half: one economy each
(`rau.sam.reading.Economy`). recommended: `--speed fast` with the other settings as they are, the reference in memory
and no neighbour; its cost in Dice is told by `volumes.py`. A processor without units for bfloat16 has no half, and
recommended is without it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import torch
import walks
from walks import Mode

from rau.evaluation.tables import Cell, print_table
from rau.sam.reading import Economy, fast, quick_halves
from rau.settings import SegmentSettings

EXACT, RECOMMENDED = "exact", "recommended"
TOLERANCE = 1e-3
WARM = 7  # slices until the ring is full
SIZED = 4  # structures of the picture of time against pixels
STEADY = 12  # rows to time, at least: a slice of one structure is quick, and its time wavers


def modes(size: int) -> tuple[Mode, ...]:
    """Exact, each economy by itself, and what is recommended on slices of `size` pixels."""
    half = (Mode("half", Economy(half=True)),) if quick_halves("cpu") else ()
    return (
        Mode(EXACT),
        Mode("one neighbour", neighbours=1),
        Mode("pooled", Economy(pool=2)),
        *half,
        Mode("recommended, one neighbour", fast(size), 1),
        Mode(RECOMMENDED, fast(size), SegmentSettings().neighbours),
    )


def timed(walk: Iterator[Any]) -> float:
    """Processor seconds of the walk's next slice."""
    start = time.process_time()
    if next(walk, None) is None:
        raise RuntimeError("the walk ended early")
    return time.process_time() - start


Paces = dict[str, list[float]]  # of each walk: seconds of slice 1, 2, ...


def paces(size: int, structures: int, slices: int) -> Paces:
    """Seconds of every slice, WARM and `slices` more, of each mode and of "predictor", `sam2`'s own."""
    segmenter, predictor = walks.models(size)
    one = walks.scene(WARM + slices + 1, size, structures)
    runs: dict[str, Iterator[Any]] = {
        "predictor": walks.predictor_walk(predictor, walks.predictor_state(predictor, one))
    }
    next(runs["predictor"])  # slice 0 is given
    runs |= {mode.name: walks.our_walk(segmenter, one, mode) for mode in modes(size)}
    spent: Paces = {name: [] for name in runs}
    for _ in range(WARM + slices):
        for name, walk in runs.items():
            spent[name].append(timed(walk))
    return spent


def usual(spent: Paces) -> dict[str, float]:
    """Median seconds of a slice once the ring is full."""
    return {name: sorted(values[WARM:])[len(values[WARM:]) // 2] for name, values in spent.items()}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument(
        "--quick", action="store_true", help="128 pixels, one and two structures; the targets are not held"
    )
    made.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--size", type=int, default=512, help="pixels a side that the network sees (default 512)")
    made.add_argument("--structures", default="1,4,16", help="numbers of structures (default 1,4,16)")
    made.add_argument("--slices", type=int, default=3, help="slices that are timed; more of few structures (default 3)")
    made.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="also draw time against structures, pixels, slices"
    )
    return made


def targets(gaps: dict[int, float], seconds: dict[int, dict[str, float]]) -> list[tuple[str, bool]]:
    """Each target in words, and whether it is met."""
    told = [
        (f"{count} structures: mask logits within {gap:.1e} of the predictor's", gap <= TOLERANCE)
        for count, gap in gaps.items()
    ]
    for count, limit, mode in ((1, 1.0, EXACT), (16, 0.8, EXACT), (16, 0.4, RECOMMENDED)):
        if count in seconds:
            ratio = seconds[count][mode] / seconds[count]["predictor"]
            told.append(
                (f"{count} structures, {mode}: {ratio:.2f} of the predictor's time (at most {limit})", ratio <= limit)
            )
    return told


def draw(path: Path, runs: dict[int, Paces], sizes: dict[int, Paces]) -> None:
    """Seconds a slice against structures, pixels and the slice's place in the walk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    names, most = list(next(iter(runs.values()))), max(runs)
    for name in names:
        panels[0].plot(list(runs), [usual(one)[name] for one in runs.values()], marker="o", label=name)
        panels[1].plot(list(sizes), [usual(one)[name] for one in sizes.values()], marker="o")
        panels[2].plot(range(1, len(runs[most][name]) + 1), runs[most][name], marker=".")
    words = ("structures", f"pixels a side, {SIZED} structures", f"slice of the walk, {most} structures")
    for axes, label in zip(panels, words, strict=True):
        axes.set(xlabel=label, ylabel="processor seconds a slice", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].legend()
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / "throughput.png", dpi=100)


def main() -> int:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    size, counts = arguments.size, [int(part) for part in arguments.structures.split(",")]
    slices = arguments.slices
    if arguments.quick:
        size, counts, slices = 128, [1, 2], 1
    segmenter, predictor = walks.models(min(size, 256))
    gaps = {}
    for count in (1, 2) if arguments.quick else (1, 5, 16):
        scene = walks.scene(11, min(size, 256), count)
        gaps[count] = walks.difference(segmenter, predictor, scene, 9)
        common.say(f"  {count} structures: largest difference of mask logits {gaps[count]:.1e}")
    seconds, runs = {}, {}
    for count in counts:
        runs[count] = paces(size, count, slices if arguments.quick else max(slices, STEADY // count))
        seconds[count] = usual(runs[count])
        told = ", ".join(f"{name} {value:.2f}" for name, value in seconds[count].items())
        common.say(f"  {count} structures, seconds a slice: {told}")
    rows: list[list[Cell]] = [
        [count, one["predictor"], *(one[mode.name] / one["predictor"] for mode in modes(size))]
        for count, one in seconds.items()
    ]
    columns = ["structures", "predictor, s", *(f"{mode.name}, ratio" for mode in modes(size))]
    print_table(f"Processor time a slice, {size} pixels, one thread", columns, rows)
    if arguments.pictures:
        smaller = {side: paces(side, SIZED, slices) for side in (size // 2, 3 * size // 4)}
        draw(arguments.pictures, runs, {**smaller, size: runs.get(SIZED) or paces(size, SIZED, slices)})
    held = [] if arguments.quick else targets(gaps, seconds)
    for text, met in held:
        common.say(f"{'met' if met else 'missed'}: {text}")
    common.write_json(arguments.json, {"size": size, "differences": gaps, "seconds": seconds})
    last = seconds[counts[-1]]
    theirs = last["predictor"]
    common.say(
        f"{counts[-1]} structures: exact {last[EXACT] / theirs:.2f}, recommended {last[RECOMMENDED] / theirs:.2f} "
        f"of the time of SAM2VideoPredictor ({theirs:.2f} s a slice)"
    )
    return int(arguments.check and not all(met for _, met in held))


if __name__ == "__main__":
    sys.exit(main())
