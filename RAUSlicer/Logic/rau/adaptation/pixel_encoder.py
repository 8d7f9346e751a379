"""What a pixel looks like, learnt: features by which one annotated slice tells its structures in another subject.

A small U-Net (GroupNorm, GELU). It was trained so that a closed-form classifier of them, fitted on one slice, is
right in the next (`rau.training.pixels`); at use they are further features of the expert. Axes: B slices, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from rau.adaptation.closed_form import ClosedForm, Fit, Seen
from rau.adaptation.features import filter_bank

if TYPE_CHECKING:
    from rau.adaptation.views import Sheets

WIDTHS = (32, 56, 96, 144, 160)  # channels at half the size, a quarter, ... a thirty-second
FEATURES = 24
SIZE = 192  # pixels a side of what it reads
GROUPS = 8
FILTERS = 30  # of `rau.adaptation.features.filter_bank`, of three channels


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, outputs) for _ in range(2)])
        self.beside = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = F.gelu(self.norms[0](self.first(x)))
        return F.gelu(self.norms[1](self.second(found)) + self.beside(x))


class PixelEncoder(nn.Module):
    """(B, 3, S, S) in 0 to 1, S a multiple of 32 -> (B, D, S / 2, S / 2)."""

    def __init__(self, widths: Sequence[int] = WIDTHS, features: int = FEATURES, size: int = SIZE) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "features": features, "size": size}
        self.size = size
        before = [12, *widths[:-1]]
        self.down = nn.ModuleList([Block(a, b) for a, b in zip(before, widths, strict=True)])
        self.up = nn.ModuleList([Block(a + b, a) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.out = nn.Conv2d(widths[0], features, 1)
        self.closed_form = ClosedForm(features, FILTERS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.pixel_unshuffle(2 * images - 1, 2).contiguous(memory_format=torch.channels_last)
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            kept.append(x)
        for block, beside in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = block(torch.cat([beside, F.interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return self.out(x)

    @torch.inference_mode()
    def look(self, images: torch.Tensor) -> Look:
        """Read slices (B, C, S, S) in 0 to 1, of one channel or three and any size."""
        sized = F.interpolate(images, size=(self.size,) * 2, mode="bilinear", align_corners=False, antialias=True)
        read = sized.expand(-1, 3, -1, -1)
        return Look(read, self(read), images.shape[-1])


@dataclass(frozen=True)
class Look:
    """read: (B, 3, s, s), the slices at the encoder's size. learnt: (B, D, s / 2, s / 2). side: of the slices."""

    read: torch.Tensor
    learnt: torch.Tensor
    side: int

    @property
    def features(self) -> torch.Tensor:
        """(B, D, side, side)."""
        return F.interpolate(self.learnt, size=(self.side,) * 2, mode="bilinear", align_corners=False)

    def seen(self, number: int, places: torch.Tensor) -> Seen:
        """What `ClosedForm` is told of slice `number`, a pixel for four. places: (side, side, A)."""
        filters = F.avg_pool2d(filter_bank(self.read[number : number + 1]), 2)
        half = filters.shape[-2:]
        where = F.interpolate(places.movedim(-1, 0)[None], half, mode="bilinear", align_corners=False, antialias=True)
        return Seen(*(one.flatten(1).T for one in (self.learnt[number], filters[0], where[0])))


@dataclass(frozen=True)
class Taught:
    """The closed form of one reference's slices, ready for the target's. structures: K of them."""

    form: ClosedForm
    fit: Fit
    structures: int

    @torch.inference_mode()
    def predict(self, look: Look, places: torch.Tensor) -> torch.Tensor:
        """(B, K, side, side) probabilities. places: (B, side, side, A)."""
        half, found = look.learnt.shape[-1], []
        for number, one in enumerate(places):
            said = self.form.logits(self.fit, look.seen(number, one)).view(1, self.structures, half, half)
            found.append(F.interpolate(said, size=(look.side,) * 2, mode="bilinear", align_corners=False))
        return torch.cat(found).sigmoid()


@torch.inference_mode()
def taught(encoder: PixelEncoder, sheets: Sheets, structures: int, doubts: Sequence[float], seed: int) -> list[Taught]:
    """Fit the closed form on annotated slices, for each of several doubts: how wrong the target's places are, half
    squares.
    """
    look, half = encoder.look(sheets.images), encoder.size // 2
    seen = [look.seen(k, sheets.places[k]) for k in range(len(sheets))]
    whole = Seen(*(torch.cat(part) for part in zip(*((s.learnt, s.filters, s.places) for s in seen), strict=True)))
    masks = F.one_hot(sheets.labels, structures + 1)[..., 1:].movedim(-1, 1).float()
    shown = (F.adaptive_avg_pool2d(masks, half) > 0.5).float().flatten(2).transpose(0, 1).flatten(1)
    form = encoder.closed_form
    fits = [form.fit(whole, shown, doubt, torch.Generator().manual_seed(seed)) for doubt in doubts]
    return [Taught(form, fit, structures) for fit in fits]
