"""Prototypes in the space of a pixel's filters, whitened: Fisher's linear discriminant, in closed form.

Where no encoder knows the kind of image, the filters still tell what looks like the structure and what like the rest
(`rau.adaptation.features`). Nothing is trained in steps: two means and one covariance of the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RIDGE = 1e-2  # of each variance, added to it


@dataclass(frozen=True)
class Discriminant:
    """weight: (D,); bias: the log-odds of features x are weight x + bias, where structure and rest are as likely.

    reliability: Dice of what it finds in the very slices that it was made of, 0 to 1.
    """

    weight: torch.Tensor
    bias: float
    reliability: float

    def odds(self, features: torch.Tensor) -> torch.Tensor:
        """(D, H, W) -> (H, W) log-odds."""
        import torch

        return torch.einsum("d,dyx->yx", self.weight, features) + self.bias


def discriminant(features: torch.Tensor, inside: torch.Tensor) -> Discriminant | None:
    """Of M pixels: features (M, D); inside (M,), the share of each that is the structure. None where all is or none is.

    weight = C^-1 (m1 - m0), bias = -weight (m1 + m0) / 2, m1 and m0 the means, C the covariance about them.
    """
    import torch

    x, share = features.double(), inside.double()
    if share.sum() < 1e-6 or (1 - share).sum() < 1e-6:
        return None
    here, rest = (part @ x / part.sum() for part in (share, 1 - share))
    left = x - (share[:, None] * here + (1 - share)[:, None] * rest)
    covariance = left.T @ left / len(x)
    covariance += torch.diag(RIDGE * covariance.diag() + 1e-9)
    weight = torch.linalg.solve(covariance, here - rest)
    bias = -float(weight @ (here + rest)) / 2
    before = float(share.mean())
    found, there = x @ weight + bias + math.log(before / (1 - before)) > 0, share > 0.5
    both = int(found.sum() + there.sum())
    return Discriminant(weight.float(), bias, 2 * int((found & there).sum()) / both if both else 0.0)
