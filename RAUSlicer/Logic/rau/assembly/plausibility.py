"""Does what was found look like the reference's structure? Absent organs are otherwise found in whatever lies there.

The network's own gate (SAM2's object score) learns slowly at the size of `rau-mini`; brightness is a second witness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MARGIN = 10  # grey levels of 255 by which the reference's range of brightness is widened
ALIKE = 0.6  # share of voxels in that range below which a structure does not look like the reference's
TYPICAL = 0.7  # share that three in four of the other structures have: else the two images are not comparable at all
NEARLY = 0.8  # the same share where the score is far lower than those of the others
UNSURE = 0.25  # score below which it is low by itself
LOWER, FAR_LOWER = 0.6, 0.4  # parts of the others' median score, below which it is lower, and far lower
FEWEST = 10  # voxels; fewer are not judged


def inner(mask: np.ndarray) -> np.ndarray:
    """The mask without its border, whose voxels are mixed; the mask itself where nothing would be left."""
    from scipy import ndimage

    eroded = ndimage.binary_erosion(mask)
    return eroded if eroded.sum() >= FEWEST else mask


def alike(found: np.ndarray, reference: np.ndarray) -> float:
    """Share of `found` (n,) in the range of `reference` (m,), brightnesses: 1st to 99th percentile, widened."""
    low, high = np.percentile(reference, [1, 99])
    return float(((found >= low - MARGIN) & (found <= high + MARGIN)).mean())


def likeness(
    target: np.ndarray, labels: np.ndarray, references: Sequence[tuple[np.ndarray, np.ndarray]], values: Sequence[int]
) -> dict[int, float]:
    """For each value found, how much of it looks like a reference's: the best over the references, 0 to 1.

    target: (S, R, C) uint8 and its labels; references: images with labels, alike. Values too small are left out.
    """
    result = {}
    for value in values:
        here = labels == value
        if here.sum() < FEWEST:
            continue
        shown = [(image, maps == value) for image, maps in references]
        scores = [alike(target[inner(here)], image[inner(there)]) for image, there in shown if there.sum() >= FEWEST]
        if scores:
            result[value] = max(scores)
    return result


def unlike(likenesses: Mapping[int, float], scores: Mapping[int, float]) -> list[int]:
    """The values to be reported as not found: unlike the reference, unsure, where the other structures do look alike.

    A score is low by itself or beside those of the others: small structures never score high. With fewer than two other
    structures there is nothing to compare with, and none is.
    """
    result = []
    for value, share in likenesses.items():
        others = [one for one in likenesses if one != value]
        if len(others) < 2 or float(np.percentile([likenesses[one] for one in others], 25)) < TYPICAL:
            continue
        score, typical = scores.get(value, 0.0), float(np.median([scores.get(one, 0.0) for one in others]))
        odd = share < ALIKE and score < max(UNSURE, LOWER * typical)
        if odd or (share < NEARLY and score < FAR_LOWER * typical):
            result.append(value)
    return result
