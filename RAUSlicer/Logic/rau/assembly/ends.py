"""Where a structure begins and ends along the slices of a plane, so that it does not flood past its last one.

Each slice has odds that the structure is there: of what the network says of its presence and of its own mask, of the
mask's area beside the structure's largest, and of how far the matched slice of the reference lies beyond the structure
there. A structure of one piece is taken to be there in one run of slices: the run of best total odds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of 1, log-odds of presence, predicted IoU, share of the largest area, its logarithm, distance beyond the reference's
# first or last slice in parts of the structure's extent (negative within). Fitted by `Benchmarks/fit_ends.py`.
COEFFICIENTS = (-2.92, 0.03, 1.79, 1.13, -0.62, -11.93)
SURE = 6.0  # log-odds of presence are cut off here
FAR = 0.5  # parts of the extent; further beyond or within says no more
LEAST = 0.01  # share of the largest area below which all are alike
USUAL = 0.9  # quantile of the areas that counts as the largest


@dataclass(frozen=True)
class Signs:
    """Of one structure in T slices, (T,) each. asked: whether the network was asked for it; elsewhere it is absent.

    presence, iou: 0 to 1. area: pixels. beyond: parts of the structure's extent in the reference.
    """

    asked: np.ndarray
    presence: np.ndarray
    iou: np.ndarray
    area: np.ndarray
    beyond: np.ndarray

    def numbers(self) -> np.ndarray:
        """(T, 6), what `COEFFICIENTS` weigh."""
        with np.errstate(divide="ignore"):
            presence = np.log(self.presence) - np.log1p(-self.presence)
        shown = self.area[self.area > 0]
        share = np.clip(self.area / max(1.0, float(np.quantile(shown, USUAL)) if len(shown) else 1.0), 0.0, 1.0)
        columns = (
            np.ones(len(share)),
            np.clip(presence, -SURE, SURE),
            self.iou,
            share,
            np.log(np.maximum(share, LEAST)),
            np.clip(self.beyond, -FAR, FAR),
        )
        return np.stack(columns, 1)

    def odds(self) -> np.ndarray:
        """(T,) log-odds that the structure is in the slice; minus infinity where the network was not asked."""
        return np.where(self.asked, self.numbers() @ np.array(COEFFICIENTS), -np.inf)


def best_run(odds: np.ndarray) -> tuple[int, int] | None:
    """First and last index of the run of largest sum; None where no sum is above 0. odds: (T,)."""
    best, found, total, begin = 0.0, None, 0.0, 0
    for t, value in enumerate(odds.tolist()):
        if total <= 0:
            total, begin = 0.0, t
        total += value
        if total > best:
            best, found = total, (begin, t)
    return found


def presence_of(signs: Signs, threshold: float, single: bool) -> np.ndarray:
    """(T,) presence of a structure by all signs. single: it is one piece in the references, and is there in one run.

    threshold: presence from which it counts, 0 to 1; 0: wherever the network was asked.
    """
    if threshold <= 0:
        return signs.asked.astype(np.float32)
    odds = signs.odds()
    if not single:
        return np.where(signs.asked, 1 / (1 + np.exp(-np.clip(odds, -60, 60))), 0.0).astype(np.float32)
    least = np.log(threshold) - np.log1p(-min(threshold, 1 - 1e-6))
    run, there = best_run(odds - least), np.zeros(len(odds), np.float32)
    if run is not None:
        there[run[0] : run[1] + 1] = 1.0
    return there
