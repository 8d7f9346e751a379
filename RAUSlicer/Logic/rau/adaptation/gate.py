"""How much network, expert and registration count for a structure: by what is known of them without the truth.

The coefficients, which pictures use, were fitted on validation tasks by `Benchmarks/fit_gate.py`; the shares for
volumes were set by hand on validation pairs (model card). The network was trained on most real images among these,
which favours it. No evaluation set was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SOURCES = ("network", "expert", "prior")
# Of 1, the expert's trust, correlation of the laid reference, fineness of the mask, IoU that the network predicts.
COEFFICIENTS = {
    "network": (0.48, 0.29, 0.04, -0.41, 1.44),
    "expert": (0.12, 1.12, 0.29, 1.47, -0.19),
    "prior": (-1.10, -0.40, 0.66, -1.06, -0.24),
}

EXPERT_IN_VOLUMES = (0.30, 0.10)  # the expert's share: where the network sees one plane; where it sees more
PRIOR_IN_VOLUMES = (-1.5, 1.5)  # of the logistic share of registration there: of 1, of the correlation
CORRECTED = (0.50, 0.40, 0.10)  # in slices of a volume that the user has put right, and the nearer the more


@dataclass(frozen=True)
class Evidence:
    """What is known of a structure, each 0 to 1. trust: Dice of the expert on views of the reference that it did not
    train on. correlation: of target and laid reference. fineness: how much of the reference's mask is lost on the
    network's coarse grid. iou: what the network expects of its own masks.
    """

    trust: float
    correlation: float
    fineness: float
    iou: float = 0.0

    def numbers(self) -> tuple[float, ...]:
        return (1.0, self.trust, self.correlation, self.fineness, self.iou)


@dataclass(frozen=True)
class Weights:
    """Shares of network, expert and registration; together 1. Numbers, or arrays that go with the volume."""

    network: float | np.ndarray
    expert: float | np.ndarray
    prior: float | np.ndarray

    def towards(self, other: Weights, share: np.ndarray) -> Weights:
        """A mixture, `share` of which is the other's."""
        mixed = (
            (1 - share) * a + share * b
            for a, b in zip((self.network, self.expert, self.prior), (other.network, other.expert, other.prior))
        )
        return Weights(*mixed)


def weights_of(
    evidence: Evidence,
    expert: bool = True,
    prior: bool = True,
    network: bool = True,
    planes: int = 0,
    corrected: bool = False,
) -> Weights:
    """Shares for a structure; sources that are not there get none.

    planes: in how many a target with more than one slice is cut, 0: a picture. corrected: in slices of a volume that
    the user has put right.
    """
    here = np.array([network, expert, prior])
    scores = np.array([np.dot(COEFFICIENTS[name], evidence.numbers()) for name in SOURCES])
    if planes or corrected:
        scores = np.log(CORRECTED if corrected else in_volumes(evidence.correlation, planes))
    shares = np.where(here, np.exp(scores - scores[here].max()), 0.0)
    shares = shares / shares.sum()
    return Weights(float(shares[0]), float(shares[1]), float(shares[2]))


def in_volumes(correlation: float, planes: int) -> tuple[float, float, float]:
    """(network, expert, prior), together 1, in a target with more than one slice, cut in so many planes.

    The more alike target and laid reference (`Evidence.correlation`), the more registration counts.
    """
    expert = EXPERT_IN_VOLUMES[planes > 1]
    prior = 1 / (1 + np.exp(-(PRIOR_IN_VOLUMES[0] + PRIOR_IN_VOLUMES[1] * correlation)))
    return (float(1 - expert - prior), expert, float(prior))


def fineness(masks: np.ndarray, grid: int) -> np.ndarray:
    """(K, S, S) 0 or 1 -> (K,): 1 - Dice of each mask and itself through `grid` cells a side; 0 where it is empty."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(masks.astype(np.float32))[:, None]
    small = F.interpolate(x, size=(grid, grid), mode="area")
    back = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False) > 0.5
    both = (back & (x > 0)).flatten(1).sum(1).numpy()
    total = (back.flatten(1).sum(1) + (x > 0).flatten(1).sum(1)).numpy()
    return np.where(total > 0, 1 - 2 * both / np.maximum(total, 1), 0.0)
