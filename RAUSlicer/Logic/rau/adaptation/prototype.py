"""One-shot adaptation without training (RCMed's OTFA, papers.md B3): prototype, similarity, place, logit bias.

Axes: B slices or rows, C channels, T positions a side of the encoder's top level. Nothing here knows a network:
features may be SAM2's (also with plain SAM2.1 weights), DINOv2's, or any encoder's. Two forms: as released (a
prototype, `similarity`, `adapted`, `biased`), and the first version (`attended`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

ALPHA = 0.3  # gain of the features by the similarity (B3 step 4)
LOCATION = 0.5  # gain of the features by the place (B3 step 3)
BIAS = 0.5  # of the mean size of the logits, by the place (B3 step 5)
LEAST = 1.0  # positions that a mask must cover for its prototype to count (B3 step 1)
SPREAD, FLOOR = 1.5, 2.0  # of the Gaussian: times the deviation of the mask, at least, positions (B9)
PIECE = 0.05  # of the mask's area: what a component must have for a Gaussian of its own (B9)


def on_grid(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Masks (B, 1, any, any) of 0 to 1 as shares of the positions they cover, (B, 1, side, side)."""
    import torch.nn.functional as F

    return F.interpolate(masks.float(), size=(side, side), mode="area")


def prototype(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor | None:
    """The mean feature under the masks of B references, averaged over them, of unit length: (C,) (B3 step 1).

    features: (B, C, T, T); masks: (B, 1, any, any), 0 to 1. A mask that covers less than a position counts by what it
    covers where all are so small; None where every mask is empty.
    """
    import torch.nn.functional as F

    cover = on_grid(masks, features.shape[-1])
    total = cover.flatten(1).sum(1)
    if not bool((total > 0).any()):
        return None
    used = total >= LEAST if bool((total >= LEAST).any()) else total > 0
    means = (features[used] * cover[used]).flatten(2).sum(2) / (total[used, None] + 1e-6)
    return F.normalize(means.mean(0), dim=0)


def similarity(known: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """S = sigmoid(zscore(cos(p, E))), over the positions of each slice (B3 step 2).

    known: (K, C) prototypes; features: (K, C, T, T), row k for prototype k -> (K, 1, T, T) in 0 to 1.
    """
    import torch
    import torch.nn.functional as F

    cosine = torch.einsum("kc,kcyx->kyx", F.normalize(known, dim=1), F.normalize(features, dim=1))
    mean, deviation = cosine.mean((1, 2), keepdim=True), cosine.std((1, 2), keepdim=True, correction=0)
    return ((cosine - mean) / (deviation + 1e-6)).sigmoid()[:, None]


def gaussian_place(mask: np.ndarray, side: int) -> np.ndarray:
    """Where a mask (rows, columns) lies, as Gaussians: (side, side) float32, 0 to 1; 0 where the mask is empty (B9).

    One Gaussian for each component of at least PIECE of the area, at its centroid, its deviation along each axis SPREAD
    times the component's, at least FLOOR positions; the largest counts.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    out = np.zeros((side, side), np.float32)
    scale = np.array([side / n for n in mask.shape])
    centres = np.arange(side) + 0.5
    for number in np.nonzero(sizes >= PIECE * sizes.sum())[0] if count else []:
        points = (np.argwhere(pieces == number + 1) + 0.5) * scale
        middle, width = points.mean(0), np.maximum(FLOOR, SPREAD * points.std(0))
        lines = [np.exp(-0.5 * ((centres - m) / w) ** 2) for m, w in zip(middle, width, strict=True)]
        out = np.maximum(out, np.outer(lines[0], lines[1]).astype(np.float32))
    return out


def adapted(features: torch.Tensor, likeness: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
    """The top level, louder where it looks like the prototype and where the structure is expected (B3 steps 3 and 4).

    features: (K, C, T, T); likeness: (K, 1, T, T); place: (K, 1, any, any) in 0 to 1, or None. The place is put on the
    neck's output: SAM2's neck is linear, so that what is done to its input is done to its output.
    """
    out = features * (1 + ALPHA * likeness)
    return out if place is None else out * (1 + LOCATION * on_grid(place, features.shape[-1]))


def attended(
    features: torch.Tensor, there: torch.Tensor, masks: torch.Tensor, place: torch.Tensor | None, weight: float = 1.0
) -> torch.Tensor:
    """The first version: positions of the target attend to the masked ones of the reference (papers.md B3, OTFA v1).

    features: (K, C, T, T), target; there: (K, C, T, T), reference; masks: (K, 1, any, any); place: as of `adapted`.
    F + weight * softmax(Q K^T / sqrt(C)) V * G with Q = K = V the features of unit length; positions outside the mask
    are no keys. A row with an empty mask stays as it is.
    """
    import torch
    import torch.nn.functional as F

    rows, channels, side = features.shape[0], features.shape[1], features.shape[-1]
    cover = on_grid(masks, side).flatten(2)
    query = F.normalize(features, dim=1).flatten(2).transpose(1, 2)
    key = F.normalize(there, dim=1).flatten(2).transpose(1, 2)
    scores = query @ key.transpose(1, 2) * channels**0.5 + torch.log(cover.clamp(min=1e-9))
    value = there.flatten(2).transpose(1, 2)
    found = (scores.softmax(2) @ value).transpose(1, 2).reshape(rows, channels, side, side)
    found = found if place is None else found * on_grid(place, side)
    return features + weight * found * (cover.sum(2) > 0)[..., None, None].to(features.dtype)


def biased(logits: torch.Tensor, place: torch.Tensor, weight: float = BIAS) -> torch.Tensor:
    """Logits (K, 1, S', S') raised where the structure is expected: by weight * mean|logits| * G (step 5)."""
    import torch.nn.functional as F

    there = F.interpolate(place.to(logits), size=logits.shape[-2:], mode="bilinear", align_corners=False)
    return logits + weight * logits.abs().mean((1, 2, 3), keepdim=True) * there


def points(likeness: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The position most like the prototype, and the one least like it, as SAM2's point prompts (papers.md B9, PerSAM).

    likeness: (K, 1, T, T) -> coordinates (K, 2, 2) as x, y in pixels of a square of `size`; labels (K, 2), 1 and 0.
    """
    import torch

    rows, side = len(likeness), likeness.shape[-1]
    flat = likeness.flatten(1)
    index = torch.stack([flat.argmax(1), flat.argmin(1)], 1)
    xy = torch.stack([index % side, index // side], -1)
    labels = torch.tensor([1, 0], dtype=torch.int32, device=likeness.device).expand(rows, 2)
    return (xy + 0.5) * size / side, labels


def boxes_of(masks: torch.Tensor, size: int) -> torch.Tensor:
    """Bounding boxes of (K, 1, S', S') boolean masks: (K, 4) x0, y0, x1, y1 in pixels of `size`; NaN where empty."""
    import torch

    scale = size / masks.shape[-1]
    out = torch.full((len(masks), 4), float("nan"), device=masks.device)
    for k, mask in enumerate(masks[:, 0]):
        rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
        if len(rows):
            ends: Sequence[torch.Tensor] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            out[k] = torch.stack([end.float() for end in ends]) * scale
    return out
