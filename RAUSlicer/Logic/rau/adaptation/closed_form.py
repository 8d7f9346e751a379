"""What the reference teaches without steps: ridge regression of its pixels, and the pixels of it that are most alike.

Both are closed forms with a few numbers that were learnt over many tasks, together with the features they read
(`rau.training.pixels`). Ridge: R2-D2 (Bertinetto et al., ICLR 2019). Likeness: matching networks (Vinyals et al.,
NeurIPS 2016), with the place of a pixel beside its looks. Axes: M pixels of the reference, N of the target, K
structures, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rau.adaptation.features import position_code

KEYS = 768  # pixels of the reference that the target's are compared with
METRIC = 32  # features in which they are compared
KINDS = 3  # learnt features, filters, place
CUT = 6.0  # deviations from the mean


@dataclass(frozen=True)
class Seen:
    """Pixels: learnt features (M, D) and filters (M, F), and their places (M, A), halves of the square."""

    learnt: torch.Tensor
    filters: torch.Tensor
    places: torch.Tensor

    def pick(self, index: torch.Tensor) -> Seen:
        return Seen(self.learnt[index], self.filters[index], self.places[index])


@dataclass(frozen=True)
class Fit:
    """What was made of a reference. weights: (K, D) of standardised features. keys: (M', 32 + A) of `METRIC` features
    and scaled places; bias: (M',); labels: (M', K).
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    weights: torch.Tensor
    keys: torch.Tensor
    bias: torch.Tensor
    labels: torch.Tensor
    reach: torch.Tensor


def balanced(labels: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of `count` of M pixels, half of them at random and half from all structures alike; 1 / chance, mean 1.

    labels: (K, M) 0 or 1.
    """
    m = labels.shape[1]
    inside = torch.cat([labels, 1 - labels.amax(0, keepdim=True)])
    share = (inside / inside.sum(1, keepdim=True).clamp(min=1)).mean(0)
    chance = 0.5 / m + 0.5 * share / share.sum()
    index = torch.multinomial(chance, count, replacement=True, generator=generator)
    rare = 1 / chance[index]
    return index, rare / rare.mean()


class ClosedForm(nn.Module):
    """Learns nothing at use: `fit` makes a `Fit` of a reference's pixels, `logits` says what it is of the target's."""

    def __init__(self, learnt: int, filters: int) -> None:
        super().__init__()
        self.ridge = nn.Parameter(torch.full((KINDS,), -4.0))
        self.scale = nn.Parameter(torch.tensor(1.2))
        self.offset = nn.Parameter(torch.tensor(-0.5))
        self.alike = nn.Parameter(torch.tensor(-0.5))
        self.rarity = nn.Parameter(torch.tensor(0.5))
        self.reach = nn.Parameter(torch.tensor(0.0))
        self.metric = nn.Linear(learnt + filters, METRIC, bias=False)
        with torch.no_grad():
            self.metric.weight.mul_(1.5)

    def fit(self, seen: Seen, labels: torch.Tensor, doubt: float, generator: torch.Generator) -> Fit:
        """labels: (K, M) 0 or 1. doubt: how wrong the target's places are, half squares."""
        noise = torch.randn(seen.places.shape, generator=generator) * doubt
        parts = [seen.learnt, seen.filters, position_code(seen.places + noise)]
        x = torch.cat(parts, 1)
        mean, deviation = x.mean(0), x.std(0) + 1e-4
        x = torch.cat([(x - mean) / deviation, torch.ones_like(x[:, :1])], 1)
        kinds = torch.cat([torch.full((p.shape[1],), i) for i, p in enumerate(parts)])
        ridge = torch.cat([self.ridge.exp()[kinds], self.ridge.new_full((1,), 1e-4)])
        weights = self._regressed(x, labels, ridge)
        index, rare = balanced(labels, KEYS, generator)
        reach = self.reach.exp() * doubt
        looks = self.metric(x[index, : seen.learnt.shape[1] + seen.filters.shape[1]])
        keys = torch.cat([looks, seen.places[index] / reach], 1)
        return Fit(mean, deviation, weights, keys, self.rarity * rare.log(), labels[:, index].T, reach)

    @staticmethod
    def _regressed(x: torch.Tensor, labels: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
        """(K, D): every structure against the rest, half by pixels as they are and half by both sides alike."""
        m, total = len(x), x.sum(0)
        every = x.T @ x
        grams, right = [], []
        for one in labels:
            mine = x[one > 0.5]
            n, inside, sums = max(1, len(mine)), mine.T @ mine, mine.sum(0)
            high, low = 0.5 / m + 0.25 / n, 0.5 / m + 0.25 / max(1, m - len(mine))
            grams.append(high * inside + low * (every - inside))
            right.append(high * sums - low * (total - sums))
        return torch.linalg.solve(torch.stack(grams) + torch.diag(ridge), torch.stack(right)[..., None])[..., 0]

    def logits(self, fit: Fit, seen: Seen) -> torch.Tensor:
        """(K, N) of the target's pixels."""
        looks = torch.cat([seen.learnt, seen.filters, position_code(seen.places)], 1)
        x = ((looks - fit.mean) / fit.deviation).clamp(-CUT, CUT)
        ridged = fit.weights[:, :-1] @ x.T + fit.weights[:, -1:]
        mine = self.metric(x[:, : seen.learnt.shape[1] + seen.filters.shape[1]])
        query = torch.cat([mine, seen.places / fit.reach], 1)
        near = query @ fit.keys.T - 0.5 * (fit.keys**2).sum(1) + fit.bias
        found = (near.softmax(1) @ fit.labels).T.clamp(0.01, 0.99)
        return self.scale.exp() * ridged + self.alike.exp() * torch.logit(found) + self.offset
