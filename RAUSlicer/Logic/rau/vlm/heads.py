"""What is read off the VLM's hidden states: box and coarse mask of each structure (papers.md C2, and A9's option).

Axes: B dialogues, K structures of all dialogues together (each knows its dialogue), G tokens a side of a picture, H
hidden width, E width of the mask product, R cells a side that a token is split into, GR cells a side of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from rau.vlm.prompts import MOST

PROFILE = 24  # cells of a mask's profile along columns and rows, which the box head sees
FINER = 2  # positions a side that a token has in the correspondence
NEAR = 0.12  # of the picture: how far the same place is looked for at first
SURE = 0.02  # shares are kept this far from 0 and 1 before they become logits


@dataclass(frozen=True)
class HeadsConfig:
    """hidden: H. embed: E. cells: R, a multiple of FINER. colours: classes of the legend, and one for nothing."""

    hidden: int
    embed: int = 32
    cells: int = 4
    colours: int = MOST


class Correspondence(nn.Module):
    """Which place of the reference a place of the target is: attention of target positions to reference positions.

    By likeness (projections that begin alike, and see the vision embeddings alone; cosine, a learned temperature) and
    by nearness in the picture (a learned width). M = FINER * G positions a side.
    """

    def __init__(self, hidden: int, embed: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.asked, self.known = (nn.Linear(2 * hidden, FINER**2 * embed, bias=False) for _ in range(2))
        with torch.no_grad():
            same = torch.randn(embed, 1, hidden) / hidden**0.5  # all positions of a token begin alike
            self.asked.weight[:, :hidden] = same.expand(-1, FINER**2, -1).flatten(0, 1)
            self.asked.weight[:, hidden:] = 0
        self.known.load_state_dict(self.asked.state_dict())
        self.heat = nn.Parameter(torch.tensor(15.0).log())
        self.width = nn.Parameter(torch.tensor(NEAR).log())

    def forward(self, target: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """(B, M M, M M), rows sum to 1: target positions over reference positions. target, reference: (B, G G, 2 H)."""
        side = round(target.shape[1] ** 0.5)
        one, other = (self._places(layer, x, side) for layer, x in ((self.asked, target), (self.known, reference)))
        line = (torch.arange(side * FINER, device=target.device) + 0.5) / (side * FINER)
        spots = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)
        apart = torch.cdist(spots, spots) ** 2 / (2 * (2 * self.width).exp())
        return (self.heat.exp() * one @ other.transpose(1, 2) - apart).softmax(-1)

    def _places(self, layer: nn.Linear, x: torch.Tensor, side: int) -> torch.Tensor:
        """(B, G G, 2 H) to (B, M M, E) of length 1; the mean of a picture is taken out of what is seen and thought."""
        x = x - x.mean(1, keepdim=True)
        x = layer(torch.cat([F.layer_norm(half, (self.hidden,)) for half in x.split(self.hidden, -1)], -1))
        x = F.pixel_shuffle(x.transpose(1, 2).reshape(len(x), -1, side, side), FINER)
        return F.normalize(x.flatten(2).transpose(1, 2), dim=-1)


def carried(places: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(K, GR, GR): the reference's masks, each position's cells from where `places` found it.

    places: (K, M M, M M) of `Correspondence`; shares: (K, GR, GR), part of each cell of the reference that is covered.
    """
    side = round(places.shape[1] ** 0.5)
    small = F.pixel_unshuffle(shares[:, None], shares.shape[-1] // side)
    moved = (places @ small.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(small.shape)
    return F.pixel_shuffle(moved, shares.shape[-1] // side)[:, 0]


class CueHeads(nn.Module):
    """Detection head and mask head of `<Seg>` states, colour head of the target's tokens.

    The mask is what the correspondence carries over from the reference, corrected by the product of state and target.
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
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.places = Correspondence(hidden, embed)
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

    def fields(self, target: torch.Tensor) -> torch.Tensor:
        """(B, E, GR, GR) of the target. target: (B, G G, 2 H), vision embeddings and hidden states of its tokens."""
        side, r = round(target.shape[1] ** 0.5), self.config.cells
        x = self.cells(target).transpose(1, 2).reshape(len(target), -1, side, side)
        x = F.pixel_shuffle(x, r)
        return x + self.smooth(F.gelu(x))

    def masks(
        self, states: torch.Tensor, fields: torch.Tensor, places: torch.Tensor, shares: torch.Tensor, of: torch.Tensor
    ) -> torch.Tensor:
        """(K, GR, GR) logits. states: (K, H) at `<Seg>`; fields: (B, E, GR, GR); places: (B, M M, M M); shares: (K, GR,
        GR) of the reference; of: (K,) dialogue of each.
        """
        own = torch.einsum("ke,kehw->khw", self.query(states), fields[of]) / self.config.embed**0.5
        return own + self.trust * torch.logit(carried(places[of], shares), eps=SURE) + self.bias

    def colours(self, fields: torch.Tensor) -> torch.Tensor:
        """(B, colours + 1, GR, GR) logits: which colour of the legend lies where in the target; 0 is none."""
        return self.colour(fields)

    def boxes(self, states: torch.Tensor, anchors: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """(K, 4) corners as fractions. anchors: (K, 4) boxes of the structures in the reference; masks: of `masks`."""
        found = masks.sigmoid()
        profiles = [F.adaptive_max_pool1d(found.amax(axis), PROFILE) for axis in (1, 2)]
        centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]).clamp(min=1e-3)
        step = self.box(torch.cat([states, 4 * torch.cat([centre - 0.5, size], -1), *profiles], -1))
        centre, size = centre + step[:, :2], size * step[:, 2:].clamp(-3, 3).exp()
        return torch.cat([centre - size / 2, centre + size / 2], -1)


def share_of(masks: torch.Tensor, cells: int) -> torch.Tensor:
    """(K, cells, cells) float, the part of each cell that the masks cover. masks: (K, S, S) bool."""
    return F.interpolate(masks.float()[:, None], size=(cells, cells), mode="area")[:, 0]


def paired_giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(K,) generalised IoU of row k of each, (K, 4) corners (Rezatofighi et al. 2019)."""
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(1) for x in (a, b))
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (area_a + area_b - both).clamp(min=1e-9)
    return both / union - (hull - union) / hull.clamp(min=1e-9)
