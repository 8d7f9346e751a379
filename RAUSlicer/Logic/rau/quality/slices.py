"""What is known of a structure in one slice, and which slices are to be looked at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

AGREEMENT, IOU, NEIGHBOURS = 0.5, 0.3, 0.2  # shares of the three signs in a slice's score
DOUBTFUL = 0.7  # score below which a slice is to be looked at
MOST = 10  # slices to be looked at


@dataclass(frozen=True)
class SliceSigns:
    """One structure in one slice across the acquisition axis (index: canonical). Dice values, 0 to 1.

    area: share of the slice that the result gives it. agreement: mean Dice of the result and each source. iou: that the
    network expects. neighbours: Dice of the result with the next slices, the better of the two; None of a picture.
    """

    value: int
    index: int
    area: float
    agreement: float
    iou: float
    neighbours: float | None

    @property
    def score(self) -> float:
        """0 (look here) to 1."""
        if self.neighbours is None:
            return (AGREEMENT * self.agreement + IOU * self.iou) / (AGREEMENT + IOU)
        return AGREEMENT * self.agreement + IOU * self.iou + NEIGHBOURS * self.neighbours


def slice_signs(
    value: int, axis: int, final: np.ndarray, masks: Mapping[str, np.ndarray], iou: np.ndarray
) -> list[SliceSigns]:
    """The signs of one structure in the slices that show it. final, masks: (S, R, C) boolean; iou: (T,)."""
    moved = np.moveaxis(final, axis, 0)
    flat = moved.reshape(len(moved), -1)
    area = flat.sum(1)
    agreements = [row_dice(flat, np.moveaxis(mask, axis, 0).reshape(len(moved), -1)) for mask in masks.values()]
    agreement = np.mean(agreements, axis=0)
    beside = row_dice(flat[:-1], flat[1:])
    best = np.maximum(np.r_[0.0, beside], np.r_[beside, 0.0])
    return [
        SliceSigns(
            value,
            int(t),
            float(area[t] / flat.shape[1]),
            float(agreement[t]),
            float(iou[t]),
            float(best[t]) if len(moved) > 1 else None,
        )
        for t in np.nonzero(area)[0]
    ]


def row_dice(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T,) Dice of two (T, N) masks, row by row; 0 where both are empty."""
    total = one.sum(1) + other.sum(1)
    return np.where(total > 0, 2 * (one & other).sum(1) / np.maximum(total, 1), 0.0)


@dataclass(frozen=True)
class SliceQuality:
    """A slice of the target: canonical index, score (0: look here first, 1), and the structure that is worst there."""

    index: int
    score: float
    worst: int


def scored(signs: Sequence[SliceSigns]) -> list[SliceQuality]:
    """Every slice that shows a structure, in order: the mean over its structures, by the root of their areas."""
    by_index: dict[int, list[SliceSigns]] = {}
    for one in signs:
        by_index.setdefault(one.index, []).append(one)
    found = []
    for index, several in sorted(by_index.items()):
        weights = np.sqrt([one.area for one in several])
        mean = float(np.average([one.score for one in several], weights=weights))
        found.append(SliceQuality(index, mean, min(several, key=lambda one: one.score).value))
    return found


def to_review(slices: Sequence[SliceQuality]) -> list[SliceQuality]:
    """The slices of lowest score, worst first: those below DOUBTFUL, MOST at the most."""
    return sorted((one for one in slices if one.score < DOUBTFUL), key=lambda one: one.score)[:MOST]
