"""Mask prompts as registration and the expert will give them at use: roughly right, sometimes badly wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rau.training.appearance import blur
from rau.training.synthetic import Dice

COPIED = 0.2  # chance that a prompt is the reference's mask where it lies
TISSUE = 0.45  # chance that pixels of like brightness nearby are taken in, and unlike ones are left out


def prompts_for(truth: torch.Tensor, reference: torch.Tensor, image: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Candidate probabilities (K, 1, S, S) of K structures.

    truth, reference: (K, 1, S, S) masks of the target and of a reference; image: (K, 1, S, S) target, 0 to 1. Where a
    structure is absent from the target its candidate comes from the reference alone, as registration would have it.
    """
    k, size = truth.shape[0], truth.shape[-1]
    copied = dice.chance(COPIED, k) | (truth.flatten(1).sum(1) == 0)
    source = torch.where(copied[:, None, None, None], reference, truth)
    grid = F.affine_grid(torch.eye(2, 3).to(truth).repeat(k, 1, 1), [k, 1, size, size], align_corners=False)
    amount = dice.uniform(0.0, 0.09, k, 1, 1, 1)
    grid = grid + amount * (dice.smooth(k, 2, 5, size) + 0.5 * dice.smooth(k, 2, 10, size)).permute(0, 2, 3, 1)
    moved = F.grid_sample(source, grid, align_corners=False)
    soft = _soft(moved, dice)
    tissue = dice.chance(TISSUE, k)
    if tissue.any():
        soft[tissue] = _of_tissue(soft[tissue], source[tissue], image[tissue], dice)
    strength = dice.uniform(0.6, 1.0, k, 1, 1, 1)
    return (soft * strength).clamp(0, 1)


def _soft(masks: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Borders softened over one to a few pixels. (K, 1, S, S)."""
    wide = dice.chance(0.5, len(masks))[:, None, None, None]
    return torch.where(wide, blur(masks[:, 0], 2.5)[:, None], blur(masks[:, 0], 1.0)[:, None])


def _of_tissue(soft: torch.Tensor, masks: torch.Tensor, image: torch.Tensor, dice: Dice) -> torch.Tensor:
    """The candidate as a pixel classifier sees it: brightness like the structure's, in a wide neighbourhood of it."""
    inside = masks.flatten(1).sum(1).clamp(min=1)
    mean = (image * masks).flatten(1).sum(1) / inside
    spread = ((image - mean[:, None, None, None]) ** 2 * masks).flatten(1).sum(1) / inside
    tolerance = (spread.sqrt() + 0.03) * dice.uniform(1.0, 2.5, len(soft))
    like = torch.exp(-0.5 * ((image - mean[:, None, None, None]) / tolerance[:, None, None, None]) ** 2)
    small = F.interpolate(soft, scale_factor=0.25, mode="area")
    near = F.interpolate(blur(small[:, 0], 4.0)[:, None], size=soft.shape[-2:], mode="bilinear", align_corners=False)
    near = (near / near.flatten(1).max(1).values.clamp(min=1e-3)[:, None, None, None]).clamp(0, 1)
    return like * near.sqrt()
