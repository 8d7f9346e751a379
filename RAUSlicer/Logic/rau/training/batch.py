"""Tasks to tensors: deform, render, degrade, pick structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rau.training import appearance, synthetic
from rau.training.anatomy import TISSUE, Style
from rau.training.appearance import TABLE
from rau.training.data import Layout, Rng, Source, Task
from rau.training.windows import looked_at

MIN_PIXELS = 10  # of a structure on the network's square; fewer: neither present nor absent


@dataclass(frozen=True)
class Batch:
    """images: (B, F, 3, S, S) in 0 to 1. masks: (K, F, 1, S, S) float 0 or 1 of K structures. of: (K,) task of each.

    present: (K,) bool, whether the structure is in the target. names: of the K structures, "" for none. modalities: of
    the B targets.
    """

    images: torch.Tensor
    masks: torch.Tensor
    of: torch.Tensor
    present: torch.Tensor
    layout: Layout
    names: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()

    def packed(self) -> Batch:
        """Less than half as large, for the way from one process or device to another: half precision, bool."""
        return replace(self, images=self.images.half(), masks=self.masks.bool())

    def to(self, device: str) -> Batch:
        """The same on `device`, unpacked."""
        images, masks = (one.to(device, non_blocking=True).float() for one in (self.images, self.masks))
        of, present = (one.to(device, non_blocking=True) for one in (self.of, self.present))
        return replace(self, images=images, masks=masks, of=of, present=present)


def warped(
    tasks: Sequence[Task], layout: Layout, size: int, dice: synthetic.Dice, difficulty: float = 1.0
) -> torch.Tensor:
    """(B * F, size, size, 2) sampling grids: frames of a subject share its deformation and wander a little alone."""
    b, subjects = len(tasks), layout.references + 1
    amount = torch.tensor([task.amount for task in tasks], dtype=torch.float32).repeat_interleave(subjects)
    amount = amount * (0.5 + 0.5 * difficulty)
    per_subject = synthetic.affine_grid(dice, b * subjects, size, synthetic.Spread(), amount)
    index = torch.tensor([i * subjects + s for i, task in enumerate(tasks) for s in task.subjects])
    zooms, pans = synthetic.views(dice, b * subjects, 0.2 * difficulty)
    grids = per_subject[index] * zooms[index] + pans[index]
    wander = torch.tensor([task.wander for task in tasks]).repeat_interleave(layout.frames)[:, None, None, None]
    knots = synthetic.coarse(size)
    shake = dice.smooth(len(index), 2, 5, knots).permute(0, 2, 3, 1) * 0.06 + dice.normal(len(index), 1, 1, 2) * 0.04
    zoom = torch.exp(dice.normal(b, 1, 1, 1) * 0.13 - 0.15).repeat_interleave(layout.frames, 0)
    pan = (dice.normal(b, 1, 1, 2) * 0.08).repeat_interleave(layout.frames, 0)
    return synthetic.refined((grids + wander * shake) * zoom + pan, size)


@dataclass(frozen=True)
class Scene:
    """What rendering needs of a batch of tasks. styles: (B,); materials: (B, TABLE); of, subject: (N,) of each frame;
    relief: (N, S, S); real: (N,) bool.
    """

    styles: torch.Tensor
    materials: torch.Tensor
    of: torch.Tensor
    subject: torch.Tensor
    relief: torch.Tensor
    real: torch.Tensor


def scene_of(tasks: Sequence[Task], grids: torch.Tensor, layout: Layout) -> Scene:
    """grids: (N, S, S, 2), by which the relief is deformed as the labels are."""
    subjects = layout.references + 1
    plain = torch.arange(TABLE)
    styles = torch.tensor([int(task.style) for task in tasks])
    materials = torch.stack([plain if t.materials is None else torch.from_numpy(t.materials).long() for t in tasks])
    of = torch.arange(len(tasks)).repeat_interleave(layout.frames)
    subject = torch.tensor([i * subjects + s for i, task in enumerate(tasks) for s in task.subjects])
    relief = torch.zeros(grids.shape[:3])
    raised = torch.tensor([task.relief is not None for task in tasks])[of]
    if raised.any():
        maps = np.concatenate([task.relief for task in tasks if task.relief is not None])
        relief[raised] = synthetic.sample_images(torch.from_numpy(maps), grids[raised])
    real = torch.tensor([task.images is not None for task in tasks])[of]
    return Scene(styles, materials, of, subject, relief, real)


def brightness(scene: Scene, layout: Layout, dice: synthetic.Dice, difficulty: float) -> torch.Tensor:
    """(N, TABLE) mean brightness of each label value in each frame: subjects of a task differ mildly, seldom wholly."""
    subjects = layout.references + 1
    means = appearance.contrasts(dice, scene.styles, 0.3 * difficulty).repeat_interleave(subjects, 0)
    means = means + dice.normal(*means.shape) * 0.035
    other = dice.chance(0.1 * difficulty, len(scene.styles)).repeat_interleave(subjects)
    styles = scene.styles.repeat_interleave(subjects)
    means = torch.where(other[:, None], appearance.contrasts(dice, styles), means)
    return means[scene.subject].gather(1, scene.materials[scene.of])


def rendered(
    scene: Scene, labels: torch.Tensor, layout: Layout, dice: synthetic.Dice, difficulty: float
) -> torch.Tensor:
    """(N, S, S) pictures of the label maps, before the scanner's effects."""
    b = len(scene.styles)
    plain = scene.styles == int(Style.PLAIN)
    means = brightness(scene, layout, dice, difficulty)
    textures = dice.uniform(0, 0.12, b, 1, 1) * dice.uniform(0, 1, b, 2, TABLE) ** 2
    rim = appearance.chance_of(dice, scene.styles, "rim") & dice.chance(difficulty, b)
    grainy = plain & ~rim & dice.chance(0.06 * difficulty, b)  # told apart by texture alone
    textures = torch.where(grainy[:, None, None], 0.22 * dice.uniform(0, 1, b, 2, TABLE) ** 2, textures)
    textures = textures.gather(2, scene.materials[:, None].expand(-1, 2, -1))
    flat = torch.where(grainy, 0.25, torch.where(rim, 0.3, 1.0))[scene.of][:, None]
    means = means * flat + 0.4 * (1 - flat)
    image = appearance.render(dice, labels, means, textures[scene.of])
    low, high = torch.tensor([appearance.LOOKS[s].relief for s in Style])[scene.styles].T
    weight = (low + (high - low) * dice.uniform(0, 1, b))[scene.of]
    image = image + weight[:, None, None] * scene.relief
    edges = rim[scene.of]
    if edges.any():
        height = dice.uniform(0.25, 0.8, b)[scene.of][edges]
        image[edges] += height[:, None, None] * appearance.rims(labels[edges])
    return image


def inverted(scene: Scene, layout: Layout, dice: synthetic.Dice, difficulty: float) -> torch.Tensor:
    """(N,) bool: all frames of a task, or one subject's, are shown as their negative. Seldom."""
    b = len(scene.styles)
    whole = dice.chance(0.1 * difficulty, b)[scene.of] & scene.real
    one = dice.chance(0.03 * difficulty, b * (layout.references + 1))[scene.subject]
    return whole ^ one


def pictures(
    tasks: Sequence[Task],
    labels: torch.Tensor,
    grids: torch.Tensor,
    layout: Layout,
    colour: bool,
    dice: synthetic.Dice,
    difficulty: float = 1.0,
) -> torch.Tensor:
    """(B * F, 3, S, S) images of the deformed label maps (or of the real slices, deformed alike).

    colour: whether stained tissue, fundus photographs and the like may be coloured; else all is grey.
    """
    scene = scene_of(tasks, grids, layout)
    image = rendered(scene, labels, layout, dice, difficulty)
    real, of = scene.real, scene.of
    if real.any():
        slices = torch.from_numpy(np.concatenate([t.images for t in tasks if t.images is not None]).astype(np.float32))
        image[real] = synthetic.sample_images(slices, grids[real])
    strength = torch.where(real, 0.45, 1.0) * (0.25 + 0.75 * difficulty)
    speckled = appearance.chance_of(dice, scene.styles, "speckle")[of] & ~real
    shaded = appearance.chance_of(dice, scene.styles, "vignette")[of] & ~real
    image = appearance.degrade(dice, image, strength, of, speckled, shaded)
    image = torch.where(inverted(scene, layout, dice, difficulty)[:, None, None], 1 - image, image)
    dyed = appearance.chance_of(dice, scene.styles, "colour")[of] & ~real
    outside = (scene.styles == int(Style.FUNDUS))[of][:, None, None] & (labels == 0)
    shown = image.masked_fill(outside, 0)[:, None].repeat(1, 3, 1, 1)
    if colour and dyed.any():
        means = brightness(scene, layout, dice, difficulty)[dyed]
        second = appearance.blur(means.gather(1, labels[dyed].flatten(1)).view_as(image[dyed]), 0.8)
        stained = appearance.dyed(dice, image[dyed], second, scene.styles, of[dyed])
        shown[dyed] = stained.masked_fill(outside[dyed].expand_as(second)[:, None], 0)
    return shown


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


def name_of(task: Task, values: Sequence[int]) -> str:
    """What a structure is called; "" for what has no name, or is several in one."""
    return task.names[values[0]] if len(values) == 1 and values[0] < len(task.names) else ""


def make_batch(
    source: Source,
    seed: Sequence[int],
    layout: Layout,
    tasks: int,
    k: int,
    size: int,
    difficulty: float = 1.0,
    closer: float = 0.0,
) -> Batch:
    """`tasks` tasks of up to `k` structures at `size` pixels; the same seed gives the same batch.

    difficulty: 0 to 1, how far subjects and their pictures differ. closer: chance that a task is seen through a window
    about one of its structures (`rau.training.windows`).
    """
    rng = np.random.default_rng(list(seed))
    dice = synthetic.Dice(int(rng.integers(2**62)))
    for _ in range(50):
        drawn = [source.draw(rng, layout) for _ in range(tasks)]
        grids = warped(drawn, layout, size, dice, difficulty)
        originals = torch.from_numpy(np.concatenate([t.labels for t in drawn]))
        if closer:
            grids = looked_at(originals, grids, layout, rng, closer)
        labels = synthetic.sample_labels(originals, grids)
        maps = labels.view(tasks, layout.frames, size, size)
        masks, of, names = [], [], []
        for i in range(tasks):
            counts = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in maps[i].numpy()])
            for values in pick(rng, counts, layout, k):
                masks.append(sum(maps[i] == value for value in values).float()[:, None])
                of.append(i)
                names.append(name_of(drawn[i], values))
        if masks:
            break
    else:
        raise RuntimeError("no structure could be drawn from the training data")
    images = pictures(drawn, labels, grids, layout, True, dice, difficulty)
    stacked = torch.stack(masks)
    present = stacked[:, layout.target].flatten(1).sum(1) > 0
    shown = images.view(tasks, layout.frames, 3, size, size)
    modalities = tuple(task.modality for task in drawn)
    return Batch(shown, stacked, torch.tensor(of), present, layout, tuple(names), modalities)
