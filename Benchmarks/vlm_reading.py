"""Can a small language model learn to copy? Rows of tokens and the same tokens again, by what it begins with.

A Qwen2.5-VL of the size of rau-mini's from scratch, text alone, learns to repeat (`rau.training.lessons.repeated`),
opened for reading (`rau.vlm.reader`), with one of its three parts left out, and as it was. Told: the cross-entropy of
the last steps (that of guessing is the logarithm of the vocabulary), and when it fell below a half of guessing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import common
import numpy as np

from rau.evaluation.tables import Cell, print_table
from rau.vlm.reader import PARTS, Part

STEPS, QUICK_STEPS = 1600, 12
ROWS, RATE, WARMUP, MOMENT = 16, 1e-3, 50, 0.98
LAST = 40  # steps that a figure is the mean of
LEARNT = 0.5  # of guessing's loss: at most, where it can be learnt
WHOLE = "opened for reading"


def variants() -> dict[str, Sequence[Part]]:
    without = {f"without {part}": tuple(one for one in PARTS if one != part) for part in PARTS}
    return {WHOLE: PARTS, **without, "as it was": ()}


def losses_of(parts: Sequence[Part], steps: int, seed: int) -> tuple[list[float], float]:
    """The loss of every step, and that of guessing."""
    import torch

    from rau.training.lessons import ALPHABET, repeated
    from rau.training.vlm_objective import SftModel
    from rau.vlm.reader import open_reader
    from rau.vlm.store import new_reasoner

    loaded = new_reasoner(seed)
    if parts:
        open_reader(loaded.reasoner.base, parts)
    model, tokens = SftModel(loaded.reasoner), len(loaded.processor.tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, MOMENT), weight_decay=0.01)
    found = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP)
        loss = model(**repeated(ROWS, tokens, np.random.default_rng([seed, step]), False))["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        found.append(float(loss.detach()))
    return found, math.log(tokens - ALPHABET)


def learnt_at(losses: Sequence[float], guessing: float) -> int | None:
    """The step at which the mean of the last `LAST` losses first fell below a half of guessing."""
    if len(losses) < LAST:
        return None
    means = np.convolve(losses, np.ones(LAST) / LAST, "valid")
    below = np.flatnonzero(means < guessing / 2)
    return int(below[0]) + LAST if len(below) else None


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="variants, with commas between them; all unless told otherwise")
    arguments = parser.parse_args()
    steps = QUICK_STEPS if arguments.quick else arguments.steps
    wanted = {
        name: parts for name, parts in variants().items() if not arguments.only or name in arguments.only.split(",")
    }
    if not wanted:
        parser.error(f"--only takes some of: {', '.join(variants())}")
    rows: list[list[Cell]] = []
    last, guessing = {}, 0.0
    for name, parts in wanted.items():
        losses, guessing = losses_of(parts, steps, arguments.seed)
        last[name] = float(np.mean(losses[-LAST:]))
        rows.append([name, last[name], learnt_at(losses, guessing)])
        common.say(f"  {name}: {last[name]:.3f} of {guessing:.3f} after {steps} steps")
    print_table("Repeating", ["begins", f"loss of the last {LAST} steps", "step of a half"], rows)
    common.write_json(arguments.json, {"guessing": guessing, "last": last})
    common.say("loss of repeating: " + ", ".join(f"{name} {loss:.3f}" for name, loss in last.items()))
    whole = last.get(WHOLE, math.inf)
    good = whole <= LEARNT * guessing and whole == min(last.values())
    return int(arguments.check and not arguments.quick and not good)


if __name__ == "__main__":
    sys.exit(main())
