"""New subjects of a reference: its slices deformed and lit anew, with the place of every pixel in the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WARPS = ((4, 0.05), (9, 0.02))  # cells a side, fraction of half the square
WANDER = ((4, 0.8), (9, 0.5))  # of the places: cells a side, share of the doubt


@dataclass(frozen=True)
class Sheets:
    """N annotated slices on the expert's square, S pixels a side.

    images: (N, C, S, S) in 0 to 1. labels: (N, S, S) int64, 0 for none, else 1 + the structure's number.
    places: (N, S, S, 3), where each pixel lies in the reference: slice, row, column from the middle of the volume, in
    halves of the square's side.
    """

    images: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, index: torch.Tensor) -> Sheets:
        return Sheets(self.images[index], self.labels[index], self.places[index])


def smooth_field(generator: torch.Generator, n: int, channels: int, cells: int, side: int) -> torch.Tensor:
    """(n, channels, side, side) smooth random fields of about unit deviation with `cells` features a side."""
    import torch
    import torch.nn.functional as F

    noise = torch.randn(n, channels, cells, cells, generator=generator)
    line = F.interpolate(torch.eye(cells)[None, None], size=(side, cells), mode="bicubic", align_corners=True)[0, 0]
    return line @ noise @ line.T  # bicubic interpolation, one axis after the other


def sampling_grid(generator: torch.Generator, n: int, side: int) -> torch.Tensor:
    """(n, side, side, 2) grids of random affine and smooth deformations."""
    import torch
    import torch.nn.functional as F

    angle = torch.randn(n, generator=generator) * 0.12
    scale = torch.exp(torch.randn(n, generator=generator) * 0.12)
    wide = scale * torch.exp(torch.randn(n, generator=generator) * 0.05)
    rows = [torch.stack([angle.cos() * wide, -angle.sin() * scale], 1)]
    rows.append(torch.stack([angle.sin() * wide, angle.cos() * scale], 1))
    shift = torch.randn(n, 2, 1, generator=generator) * 0.05
    matrix = torch.cat([torch.stack(rows, 1), shift], 2)
    grid = F.affine_grid(matrix, [n, 1, side, side], align_corners=False)
    for cells, amplitude in WARPS:
        grid = grid + smooth_field(generator, n, 2, cells, side).permute(0, 2, 3, 1) * amplitude
    return grid


def relit(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N, C, S, S) with another shading, gamma, brightness of each channel, and a little noise; 0 to 1."""
    import torch

    n, channels, side = images.shape[:3]
    images = images * torch.exp(smooth_field(generator, n, 1, 4, side) * 0.1)
    images = images.clamp(0, 1) ** torch.exp(torch.randn(n, 1, 1, 1, generator=generator) * 0.15)
    images = images * torch.exp(torch.randn(n, channels, 1, 1, generator=generator) * 0.05)
    images = images + torch.randn(n, 1, 1, 1, generator=generator) * 0.03
    return (images + torch.randn(images.shape, generator=generator) * 0.015).clamp(0, 1)


def views_of(sheets: Sheets, count: int, generator: torch.Generator) -> Sheets:
    """`count` new subjects; the slices take turns."""
    import torch
    import torch.nn.functional as F

    source = sheets.pick(torch.arange(count) % len(sheets))
    side = source.images.shape[-1]
    grid = sampling_grid(generator, count, side)

    def move(x: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
        return F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=False)

    images = relit(move(source.images, "bilinear", "border"), generator)
    labels = move(source.labels[:, None].float(), "nearest", "zeros")[:, 0].long()
    places = move(source.places.permute(0, 3, 1, 2), "bilinear", "border").permute(0, 2, 3, 1)
    return Sheets(images, labels, places)


def doubted(places: torch.Tensor, doubt: float, generator: torch.Generator) -> torch.Tensor:
    """Places (N, S, S, 3) as registration would give them: wrong by smooth fields of about `doubt` half squares."""
    n, side = places.shape[:2]
    for cells, share in WANDER:
        places = places + smooth_field(generator, n, 3, cells, side).permute(0, 2, 3, 1) * (share * doubt)
    return places


def doubt_of(correlation: float) -> float:
    """How wrong places are (half squares), from the correlation of target and laid reference; by validation tasks."""
    return 0.035 + 0.19 * (1 - min(1.0, max(0.15, correlation))) if math.isfinite(correlation) else 0.2
