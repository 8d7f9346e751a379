"""How fast training data is made on one thread, and how far copying the reference mask gets on it.

A slow data engine starves the training. Copying: the mean Dice of the reference's mask on the target, structures that
the target lacks left out; between real subjects it is some 0.3 to 0.55.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from common import say

from rau.training.anatomy import FAMILIES
from rau.training.batch import Batch, make_batch
from rau.training.data import Anatomies, Layout

LEAST = 60.0  # slices a second
SIZE, TASKS, STRUCTURES = 192, 9, 4


def copying(batch: Batch) -> list[float]:
    """Dice of the first reference's mask with the target's, for each structure that both show."""
    one, other = batch.masks[:, 0].flatten(1), batch.masks[:, batch.layout.target].flatten(1)
    both = batch.present & one.any(1)
    return (2 * (one * other).sum(1) / (one.sum(1) + other.sum(1)).clamp(min=1))[both].tolist()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few batches, in some seconds")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 below {LEAST:.0f} slices a second")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    pool, batches = (40, 4) if arguments.quick else (400, 60)
    source = Anatomies(0, pool)
    seconds = time.perf_counter() - start
    say(f"{pool} pairs of {len(FAMILIES)} families drawn in {seconds:.1f} s, kept for the whole training")
    layout, scores = Layout(1, 0), []
    make_batch(source, (0, 0), layout, TASKS, STRUCTURES, SIZE)
    start = time.perf_counter()
    for step in range(batches):
        scores += copying(make_batch(source, (1, step), layout, TASKS, STRUCTURES, SIZE))
    rate = batches * TASKS * layout.frames / (time.perf_counter() - start)
    say(f"copying the reference mask: mean Dice {sum(scores) / max(1, len(scores)):.3f} over {len(scores)} structures")
    say(f"{rate:.1f} slices of {SIZE} pixels a second on one thread")
    return int(arguments.check and rate < LEAST)


if __name__ == "__main__":
    sys.exit(main())
