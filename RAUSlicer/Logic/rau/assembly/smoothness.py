"""Borders as smooth as the reference's: what was found is smoothed as far as the reference's own masks bear it.

A round organ is found with a ragged border where speckle or noise is; a branching vessel must stay as it is. Which of
the two a structure is, its mask in the reference tells: how far it can be smoothed and still be itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

BORNE = (0.99, 0.98)  # Dice of a mask, smoothed, with itself, down to which it bears that: pictures, volumes
SHARES = (0.02, 0.04, 0.06, 0.08, 0.10, 0.13, 0.16, 0.20, 0.25, 0.30)  # deviations that are tried, of the size
ENOUGH = 60_000  # voxels of a box with which it is tried; of larger ones every second, third, ... is looked at
LEFT = 0.5  # of its voxels; a structure of which less would be left stays as it is


def smooth(labels: np.ndarray, shares: Mapping[int, float], spacing: Sequence[float]) -> np.ndarray:
    """(S, R, C) labels with each structure smoothed by a Gaussian of its share (`borne`) of its own size.

    A voxel goes to the structure of most, if over a half. spacing: mm. Structures without a share stay.
    """
    from scipy import ndimage

    found, best = np.zeros_like(labels), np.full(labels.shape, 0.5, np.float32)
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), 1):
        if box is None:
            continue
        sigma = deviations(labels[box] == value, shares.get(value, 0.0), spacing)
        here = tuple(
            slice(max(0, s.start - int(np.ceil(3 * d))), s.stop + int(np.ceil(3 * d)))
            for s, d in zip(box, sigma, strict=True)
        )
        mask = labels[here] == value
        soft = softened(mask, sigma)
        if (soft > 0.5).sum() < LEFT * mask.sum():
            soft = mask.astype(np.float32)
        wins = soft > best[here]
        found[here][wins], best[here][wins] = value, soft[wins]
    return found


def borne(references: Iterable[tuple[np.ndarray, Sequence[float]]], values: Sequence[int]) -> dict[int, float]:
    """How far structures can be smoothed, in parts of their size, by (S, R, C) label maps and their spacing, mm.

    The least of several references; no entry: in none of them.
    """
    found: dict[int, float] = {}
    for labels, spacing in references:
        for value, share in borne_by(labels, spacing, values).items():
            found[value] = min(share, found.get(value, share))
    return found


def borne_by(labels: np.ndarray, spacing: Sequence[float], values: Sequence[int]) -> dict[int, float]:
    """The same by one reference."""
    from scipy import ndimage

    boxes = ndimage.find_objects(labels.astype(np.int32))
    found = {}
    for value in values:
        box = boxes[value - 1] if 0 < value <= len(boxes) else None
        if box is not None:
            every = thinned(labels[box].shape, spacing)
            mask = (labels[box] == value)[tuple(slice(None, None, step) for step in every)]
            found[value] = most(mask, [s * step for s, step in zip(spacing, every, strict=True)])
    return found


def thinned(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Every how many voxels along each axis are enough: the finest axis is thinned first, as far as ENOUGH."""
    every = [1] * len(shape)
    while np.prod([-(-n // step) for n, step in zip(shape, every, strict=True)]) > ENOUGH:
        fine = [s * step if n > 2 * step else np.inf for n, s, step in zip(shape, spacing, every, strict=True)]
        every[int(np.argmin(fine))] += 1
    return every


def most(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """The largest of SHARES that the mask bears, with all below it; 0: none."""
    least, share = BORNE[mask.shape[0] > 1], 0.0
    for tried in SHARES:
        sigma = deviations(mask, tried, spacing)
        room = [(int(np.ceil(3 * d)),) * 2 for d in sigma]
        padded = np.pad(mask, room)
        kept = softened(padded, sigma) > 0.5
        if 2 * (kept & padded).sum() < least * (kept.sum() + padded.sum()):
            break
        share = tried
    return share


def deviations(mask: np.ndarray, share: float, spacing: Sequence[float]) -> list[float]:
    """`share` of the mask's size, (area, mm2)^1/2 or (volume, mm3)^1/3, as voxels along each axis; 0 across one."""
    steps = [float(s) for n, s in zip(mask.shape, spacing, strict=True) if n > 1]
    size = (int(mask.sum()) * float(np.prod(steps))) ** (1 / len(steps)) if steps else 0.0
    return [share * size / s if n > 1 else 0.0 for n, s in zip(mask.shape, spacing, strict=True)]


def softened(mask: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """The mask after a Gaussian of `sigma` voxels along each axis, 0 to 1, as if it went on beyond the border."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest", truncate=3))
