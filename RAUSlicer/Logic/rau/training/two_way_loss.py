"""RCMed's loss: L = 1.0 CE + 0.5 BCE + 2.0 Dice + 0.2 Boundary (papers.md B3, the released weights).

Axes: K masks, S pixels a side. Masks of structures that are not there take no part, as in the released data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rau.sam.segmenter import Masks
from rau.training.objective import iou_error

SCALE, SMALL = 1000.0, 1e-6  # of the sums in the Dice term
GATE, IOU = 0.5, 0.5  # of what SAM2 says of its own masks: its presence and its IoU, which RCMed's SAM does not learn


@dataclass(frozen=True)
class Weights:
    """Of the terms. Raises ValueError if one is negative."""

    ce: float = 1.0
    bce: float = 0.5
    dice: float = 2.0
    boundary: float = 0.2

    def __post_init__(self) -> None:
        if min(self.ce, self.bce, self.dice, self.boundary) < 0:
            raise ValueError("the weights of the loss must not be negative")


def bce_term(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over all pixels. (K, 1, S, S) each, truth 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits, truth)


def dice_term(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(p g) + e) / (sum p + sum g + e), sums by 1/1000, e = 1e-6; mean over the masks. (K, 1, S, S) each."""
    p, g = logits.sigmoid().flatten(1), truth.flatten(1)
    both, either = 2 * (p * g).sum(1) / SCALE, (p.sum(1) + g.sum(1)) / SCALE
    return (1 - (both + SMALL) / (either + SMALL)).mean()


def boundary_of(masks: torch.Tensor) -> torch.Tensor:
    """b(x) = clamp(maxpool3(x) + maxpool3(-x), 0, 1): dilation minus erosion, what lies beyond the edge not counted.

    masks: (K, 1, S, S), 0 to 1 -> alike.
    """
    return (F.max_pool2d(masks, 3, 1, 1) + F.max_pool2d(-masks, 3, 1, 1)).clamp(0, 1)


def boundary_term(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean BCE(b(sigmoid(y)), b(g)). (K, 1, S, S) each, truth 0 or 1."""
    return F.binary_cross_entropy(boundary_of(logits.sigmoid()), boundary_of(truth))


def two_way_loss(
    masks: Masks, truth: torch.Tensor, present: torch.Tensor, ce: torch.Tensor | None, weights: Weights
) -> torch.Tensor:
    """The weighted sum, and SAM2's own presence and IoU. truth: (K, 1, S, S); present: (K,) bool.

    ce: cross-entropy of the VLM's answer; None: it takes no part.
    """
    logits = F.interpolate(masks.logits.float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)
    total = GATE * F.binary_cross_entropy_with_logits(masks.presence, present.float())
    total = total + (0 if ce is None else weights.ce * ce)
    if not present.any():
        return total + 0 * masks.logits.sum() + 0 * masks.iou.sum()
    logits, truth = logits[present], truth[present]
    total = total + weights.bce * bce_term(logits, truth) + weights.dice * dice_term(logits, truth)
    return total + weights.boundary * boundary_term(logits, truth) + IOU * iou_error(masks.iou[present], logits, truth)
