"""Fit the gate of the adaptation: how much network, expert and registration count (`rau.adaptation.gate`).

On the validation tasks of `validation_tasks.py`, never on an evaluation set. Groups of tasks count alike, odd tasks are
fitted and even ones tell how good it is. Prints the coefficients, and the mean Dice of the untouched half with each
source alone, with equal shares, with the coefficients that are in use, and with the new ones.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from common import say
from validation_tasks import Task, tasks

from rau.adaptation.gate import COEFFICIENTS, SOURCES
from rau.adaptation.guide import build_guide
from rau.assembly.labels import PlaneVotes, confidence, voted
from rau.evaluation.tables import print_table
from rau.events import ignore
from rau.models.engine import Engine, load_engine
from rau.preparation import prepare
from rau.sam.propagation import Recipe, segment_plane
from rau.settings import SegmentSettings

VOXELS = 30_000  # of a structure, at most
SHARPNESS = 12.0  # of the soft threshold at a half
DECAY = 2e-3  # pull of the coefficients towards those in use
GAIN = 0.005  # mean Dice on the untouched half that new coefficients must bring over equal shares


@dataclass(frozen=True)
class Row:
    """A structure of a task. votes: (N, 3) probabilities of network, expert, prior in voxels where any matters.

    truth: (N,) 0 or 1. here: (3,) which sources there are. numbers: (5,), see `rau.adaptation.gate.Evidence`.
    """

    task: int
    group: str
    votes: torch.Tensor
    truth: torch.Tensor
    here: torch.Tensor
    numbers: torch.Tensor


def rows_of(task: Task, number: int, engine: Engine, settings: SegmentSettings) -> list[Row]:
    """Run the pipeline up to the assembly, and keep what its sources say."""
    case = prepare([task.reference], task.target, settings, engine, ignore)
    guide = build_guide(case, settings.seed, lambda: None, engine.pixels)
    recipe = Recipe(settings.references_per_slice, settings.neighbours)
    planes = []
    for plane in case.planes:
        vote = PlaneVotes(case.values, plane.images.array.shape[:3], plane.images.axis)
        for one in segment_plane(engine.segmenter, plane.images, plane.matches, recipe, guide.candidate):
            vote.add(one)
        planes.append(vote)
    truth, rows = case.orientation.forth(task.truth.array), []
    rng = np.random.default_rng(number)
    for column, value in enumerate(case.values):
        known = guide.evidence.get(value)
        mask = truth == value
        if known is None or not mask.any():
            continue
        asked = np.moveaxis((planes[0].presence[:, column] > 0)[:, None, None], 0, planes[0].axis)
        prior = case.prior(value)
        sources = [voted(planes, column, settings.presence_threshold), guide.expected[value] / 255 * asked]
        sources.append(np.zeros_like(sources[0]) if prior is None else prior * asked)
        stacked = np.stack(sources, -1).reshape(-1, 3).astype(np.float32)
        index = np.nonzero((stacked.max(1) > 0.05) | mask.ravel())[0]
        index = rng.permutation(index)[:VOXELS]
        numbers = (1.0, known.trust, known.correlation, known.fineness, confidence(planes, column))
        here = torch.tensor([True, True, prior is not None])
        told = torch.from_numpy(mask.ravel()[index].astype(np.float32))
        told_of = torch.tensor(numbers, dtype=torch.float32)
        rows.append(Row(number, task.group, torch.from_numpy(stacked[index]), told, here, told_of))
    return rows


def shares(coefficients: torch.Tensor, row: Row) -> torch.Tensor:
    """(3,) as `rau.adaptation.gate.weights_of` gives them. coefficients: (3, 5)."""
    return (coefficients @ row.numbers).masked_fill(~row.here, -torch.inf).softmax(0)


def dice_of(row: Row, weights: torch.Tensor, soft: bool) -> torch.Tensor:
    p = row.votes @ weights
    p = torch.sigmoid(SHARPNESS * (p - 0.5)) if soft else (p > 0.5).float()
    return 2 * (p * row.truth).sum() / (p.sum() + row.truth.sum())


def mean_dice(rows: Sequence[Row], weights: torch.Tensor, soft: bool = False) -> torch.Tensor:
    """Mean over structures, then tasks, then groups. weights: (3, 5) coefficients, or (3,) shares for all."""
    groups: dict[str, dict[int, list[torch.Tensor]]] = {}
    for row in rows:
        share = shares(weights, row) if weights.ndim == 2 else weights * row.here / (weights * row.here).sum()
        groups.setdefault(row.group, {}).setdefault(row.task, []).append(dice_of(row, share, soft))
    return torch.stack(
        [torch.stack([torch.stack(d).mean() for d in of.values()]).mean() for of in groups.values()]
    ).mean()


def fitted(rows: Sequence[Row], start: torch.Tensor, steps: int) -> torch.Tensor:
    """Coefficients of best soft Dice, from `start`."""
    coefficients = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([coefficients], 0.05)
    for _ in range(steps):
        loss = -mean_dice(rows, coefficients, soft=True) + DECAY * (coefficients - start).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return coefficients.detach()


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one task of each group, in about a minute")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 when the gate in use is not above equal shares"
    )
    parser.add_argument("--model", default="auto", help="as in `rau segment`")
    parser.add_argument("--steps", type=int, default=150, help="of the fit")
    arguments = parser.parse_args()
    settings = SegmentSettings(model=arguments.model)
    engine, rows = load_engine(settings), []
    for number, task in enumerate(tasks(quick=arguments.quick)):
        rows += rows_of(task, number, engine, settings)
    names = {group: i for i, group in enumerate(sorted({row.group for row in rows}))}
    odd = [row for row in rows if (row.task + names[row.group]) % 2]
    even = [row for row in rows if not (row.task + names[row.group]) % 2]
    used = torch.tensor([COEFFICIENTS[name] for name in SOURCES])
    told, final = fitted(odd, used, arguments.steps), fitted(rows, used, arguments.steps)
    choices = {
        "network alone": torch.tensor([1.0, 0.0, 0.0]),
        "expert alone": torch.tensor([0.0, 1.0, 0.0]),
        "equal shares": torch.ones(3),
        "gate in use": used,
        "fitted on the other half": told,
    }
    table = [[name, mean_dice(even, one).item(), mean_dice(rows, one).item()] for name, one in choices.items()]
    print_table("Mean Dice", ["shares", "untouched half", "all tasks"], table)
    for name, one in zip(SOURCES, final, strict=True):
        say(f'    "{name}": ({", ".join(f"{v:.2f}" for v in one.tolist())}),')
    gain = mean_dice(rows, used).item() - mean_dice(rows, torch.ones(3)).item()
    say(f"the gate in use is {gain:+.3f} Dice over equal shares on {len({row.task for row in rows})} tasks")
    return int(arguments.check and not arguments.quick and gain < GAIN)


if __name__ == "__main__":
    sys.exit(main())
