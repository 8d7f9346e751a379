"""What is read off the VLM's hidden states: box and coarse mask of each structure (papers.md C2, and A9's option).

Axes: B dialogues, K structures of all dialogues together (each knows its dialogue), G tokens a side of the target, H
hidden width, E width of the mask product, R cells a side that a token is split into.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rau.vlm.prompts import MOST

PROFILE = 24  # cells of a mask's profile along columns and rows, which the box head sees


@dataclass(frozen=True)
class HeadsConfig:
    """hidden: H. embed: E. cells: R. colours: classes of the legend, and one for nothing."""

    hidden: int
    embed: int = 32
    cells: int = 4
    colours: int = MOST


class CueHeads(nn.Module):
    """Detection head and mask head of `<Seg>` states, colour head of the target's tokens.

    The box is told as a step from the structure's box in the reference: the last layer begins at zero, so an untrained
    head copies the reference; it sees the state and the profiles of the structure's own coarse mask. Trained with L1 +
    GIoU, and BCE + Dice for the mask.
    """

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__()
        self.config = config
        hidden, embed = config.hidden, config.embed
        inner = min(512, 2 * hidden)
        self.query = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, embed))
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.cells = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, config.cells**2 * embed)
        )
        self.smooth = nn.Conv2d(embed, embed, 3, padding=1)
        self.colour = nn.Conv2d(embed, config.colours + 1, 1)
        self.box = nn.Sequential(
            nn.Linear(hidden + 4 + 2 * PROFILE, inner),
            nn.ReLU(),
            nn.Linear(inner, inner),
            nn.ReLU(),
            nn.Linear(inner, 4),
        )
        nn.init.zeros_(self.box[-1].weight)
        nn.init.zeros_(self.box[-1].bias)

    def fields(self, seen: torch.Tensor, thought: torch.Tensor) -> torch.Tensor:
        """(B, E, G R, G R) of the target. seen: (B, G G, H) vision embeddings; thought: the same of the last layer."""
        side, r = round(seen.shape[1] ** 0.5), self.config.cells
        x = self.cells(torch.cat([seen, thought], -1)).transpose(1, 2).reshape(len(seen), -1, side, side)
        x = F.pixel_shuffle(x, r)
        return x + self.smooth(F.gelu(x))

    def masks(self, states: torch.Tensor, fields: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """(K, G R, G R) logits. states: (K, H) at `<Seg>`; fields: (B, E, ...); of: (K,) dialogue of each."""
        query = self.query(states)
        return torch.einsum("ke,kehw->khw", query, fields[of]) / self.config.embed**0.5 + self.bias

    def colours(self, fields: torch.Tensor) -> torch.Tensor:
        """(B, colours + 1, G R, G R) logits: which colour of the legend lies where in the target; 0 is none."""
        return self.colour(fields)

    def boxes(self, states: torch.Tensor, anchors: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """(K, 4) corners as fractions. anchors: (K, 4) boxes of the structures in the reference; masks: of `masks`."""
        found = masks.sigmoid()
        profiles = [F.adaptive_max_pool1d(found.amax(axis), PROFILE) for axis in (1, 2)]
        centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]).clamp(min=1e-3)
        step = self.box(torch.cat([states, 4 * torch.cat([centre - 0.5, size], -1), *profiles], -1))
        centre, size = centre + step[:, :2], size * step[:, 2:].clamp(-3, 3).exp()
        return torch.cat([centre - size / 2, centre + size / 2], -1)


def paired_giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(K,) generalised IoU of row k of each, (K, 4) corners (Rezatofighi et al. 2019)."""
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(1) for x in (a, b))
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (area_a + area_b - both).clamp(min=1e-9)
    return both / union - (hull - union) / hull.clamp(min=1e-9)
