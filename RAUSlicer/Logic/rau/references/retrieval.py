"""Which reference slice belongs to a target slice: descriptor similarity, aligned in monotone order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PRIOR_WEIGHT = 0.6  # how much a slice's relative position counts beside the cosine
JUMP_WEIGHT = 0.05  # penalty for each reference slice of deviation from the expected step


@dataclass(frozen=True)
class Alignment:
    """For each target slice: index of the reference slice, and the cosine of their descriptors. Both (T,)."""

    index: np.ndarray
    similarity: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.similarity.mean())


def cosines(target: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(T, D) and (N, D) unit vectors -> (T, N)."""
    return target @ reference.T


def position_prior(targets: int, references: int, step: float) -> np.ndarray:
    """(T, N) in 0 to 1: 1 where both slices lie at the same place of volumes laid centre on centre.

    step: reference slices that one target slice spans (ratio of the slice spacings). Volumes of about the same length
    are stretched onto each other; else the shorter may lie anywhere in the longer at no cost.
    """
    t, r = np.arange(targets), np.arange(references)
    length = (targets - 1) * step
    stretch = (references - 1) / length if length > 0 else 1.0
    if 0.75 < stretch < 1.33:
        expected = t * step * stretch
        slack = 0.0
    else:
        expected = (references - 1) / 2 + (t - (targets - 1) / 2) * step
        slack = abs(length - (references - 1)) / 2
    off = np.maximum(0.0, np.abs(r[None] - expected[:, None]) - slack)
    return np.exp(-0.5 * (off / (0.08 * max(references, length, 4.0))) ** 2)


def align(similarity: np.ndarray, step: float = 1.0) -> Alignment:
    """The monotone path of best total similarity.

    similarity: (T, N) cosines; step: expected reference slices a target slice.

    Viterbi: the reference index never falls from one target slice to the next, so the choice cannot flicker; deviations
    from the expected step cost a little.
    """
    targets, references = similarity.shape
    score = similarity + PRIOR_WEIGHT * position_prior(targets, references, step)
    reach = int(np.ceil(3 * step)) + 2
    best, origin = score[0].copy(), np.zeros((targets, references), np.int64)
    for t in range(1, targets):
        candidates = np.full((reach + 1, references), -np.inf)
        for jump in range(min(reach, references - 1) + 1):
            candidates[jump, jump:] = best[: references - jump] - JUMP_WEIGHT * abs(jump - step)
        origin[t] = candidates.argmax(0)
        best = candidates.max(0) + score[t]
    path = np.empty(targets, np.int64)
    path[-1] = best.argmax()
    for t in range(targets - 1, 0, -1):
        path[t - 1] = path[t] - origin[t, path[t]]
    return Alignment(path, similarity[np.arange(targets), path])


def nearby(index: int, allowed: np.ndarray, count: int, reach: int) -> list[int]:
    """Up to `count` of the slices `allowed` (sorted indices) nearest to `index`, within `reach`; nearest first."""
    if not len(allowed):
        return []
    order = np.argsort(np.abs(allowed - index), kind="stable")[:count]
    return [int(v) for v in allowed[order] if abs(v - index) <= reach]
