"""Tasks to tensors: deform, render, degrade, pick structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rau.training import synthetic
from rau.training.data import TISSUE, Layout, Rng, Source, Task

MIN_PIXELS = 10  # of a structure on the network's square; fewer: neither present nor absent


@dataclass(frozen=True)
class Batch:
    """images: (B, F, 3, S, S) in 0 to 1. masks: (K, F, 1, S, S) float 0 or 1 of K structures. of: (K,) task of each.

    present: (K,) bool, whether the structure is in the target.
    """

    images: torch.Tensor
    masks: torch.Tensor
    of: torch.Tensor
    present: torch.Tensor
    layout: Layout


def warped(
    tasks: Sequence[Task], layout: Layout, size: int, dice: synthetic.Dice, difficulty: float = 1.0
) -> torch.Tensor:
    """(B * F, size, size, 2) sampling grids: frames of a subject share its deformation and wander a little alone."""
    b, subjects = len(tasks), layout.references + 1
    amount = torch.tensor([task.amount for task in tasks], dtype=torch.float32).repeat_interleave(subjects)
    amount = amount * (0.5 + 0.5 * difficulty)
    per_subject = synthetic.affine_grid(dice, b * subjects, size, synthetic.Spread(), amount)
    index = torch.tensor([i * subjects + s for i, task in enumerate(tasks) for s in task.subjects])
    grids = per_subject[index]
    wander = torch.tensor([task.wander for task in tasks]).repeat_interleave(layout.frames)[:, None, None, None]
    shake = dice.smooth(len(index), 2, 5, size).permute(0, 2, 3, 1) * 0.06 + dice.normal(len(index), 1, 1, 2) * 0.04
    zoom = torch.exp(dice.normal(b, 1, 1, 1) * 0.15 - 0.08).repeat_interleave(layout.frames, 0)
    pan = (dice.normal(b, 1, 1, 2) * 0.08).repeat_interleave(layout.frames, 0)
    return (grids + wander * shake) * zoom + pan


def pictures(
    tasks: Sequence[Task],
    labels: torch.Tensor,
    grids: torch.Tensor,
    layout: Layout,
    colour: bool,
    dice: synthetic.Dice,
    difficulty: float = 1.0,
) -> torch.Tensor:
    """(B * F, 3, S, S) images of the deformed label maps (or of the real slices, deformed alike)."""
    b, f, subjects = len(tasks), layout.frames, layout.references + 1
    index = torch.tensor([i * subjects + s for i, task in enumerate(tasks) for s in task.subjects])
    real = torch.tensor([task.images is not None and not colour for task in tasks]).repeat_interleave(f)
    strength = torch.where(real, 0.35, 1.0) * (0.25 + 0.75 * difficulty)
    channels = []
    textures = (dice.uniform(0, 0.12, b, 1) * dice.uniform(0, 1, b, synthetic.TABLE)).repeat_interleave(f, 0)
    for _ in range(3 if colour else 1):
        means = synthetic.contrasts(dice, b, 0.3 * difficulty).repeat_interleave(subjects, 0)
        means = means + dice.normal(b * subjects, synthetic.TABLE) * 0.03
        other = dice.chance(0.2 * difficulty, b).repeat_interleave(subjects)
        means = torch.where(other[:, None], synthetic.contrasts(dice, b * subjects), means)
        image = synthetic.render(dice, labels, means[index], textures)
        if real.any():
            slices = torch.from_numpy(
                np.concatenate([t.images for t in tasks if t.images is not None]).astype(np.float32)
            )
            image[real] = synthetic.sample_images(slices, grids[real])
        channels.append(synthetic.degrade(dice, image, strength))
    return torch.stack(channels * (1 if colour else 3), 1)


def pick(rng: Rng, counts: np.ndarray, layout: Layout, k: int) -> list[list[int]]:
    """Label values of up to k structures of a task. counts: (F, 256) pixels of each value in each frame.

    A structure is a value that a reference shows and the target shows clearly or not at all (one of those at most);
    now and then two values together.
    """
    in_reference = np.asarray((counts[: layout.references] >= MIN_PIXELS).any(axis=0))
    in_target = counts[layout.target]
    in_reference[[0, *range(TISSUE, 256)]] = False
    present = [int(v) for v in np.nonzero(in_reference & (in_target >= MIN_PIXELS))[0]]
    absent = [int(v) for v in np.nonzero(in_reference & (in_target == 0))[0]]
    chosen = [[int(v)] for v in rng.permutation(present)[:k]]
    if absent and (rng.random() < 0.6 or not chosen):
        chosen = [*chosen[: k - 1], [int(rng.choice(absent))]]
    if len(present) > 2 and rng.random() < 0.15:
        chosen[0] = [int(v) for v in rng.choice(present, int(rng.integers(2, min(4, len(present)) + 1)), replace=False)]
    return chosen


def make_batch(
    source: Source, seed: Sequence[int], layout: Layout, tasks: int, k: int, size: int, difficulty: float = 1.0
) -> Batch:
    """`tasks` tasks of up to `k` structures at `size` pixels; the same seed gives the same batch.

    difficulty: 0 to 1, how far subjects and their pictures differ.
    """
    rng = np.random.default_rng(list(seed))
    dice = synthetic.Dice(int(rng.integers(2**62)))
    for _ in range(50):
        drawn = [source.draw(rng, layout) for _ in range(tasks)]
        grids = warped(drawn, layout, size, dice, difficulty)
        labels = synthetic.sample_labels(torch.from_numpy(np.concatenate([t.labels for t in drawn])), grids)
        maps = labels.view(tasks, layout.frames, size, size)
        masks, of = [], []
        for i in range(tasks):
            counts = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in maps[i].numpy()])
            for values in pick(rng, counts, layout, k):
                masks.append(torch.isin(maps[i], torch.tensor(values)).float()[:, None])
                of.append(i)
        if masks:
            break
    else:
        raise RuntimeError("no structure could be drawn from the training data")
    colour = bool(rng.random() < 0.08 * difficulty)
    images = pictures(drawn, labels, grids, layout, colour, dice, difficulty)
    stacked = torch.stack(masks)
    present = stacked[:, layout.target].flatten(1).sum(1) > 0
    return Batch(images.view(tasks, layout.frames, 3, size, size), stacked, torch.tensor(of), present, layout)
