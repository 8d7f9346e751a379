"""New subjects for a batch of label maps, on torch: deformation and field of view.

Axes: N frames (slices), S pixels a side. Everything random comes from one `torch.Generator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F


@lru_cache(maxsize=64)
def cubic(cells: int, size: int) -> torch.Tensor:
    """(size, cells): cubic interpolation of a line of `cells` knots, as a matrix."""
    knots = torch.eye(cells)[None, None]
    return F.interpolate(knots, size=(size, cells), mode="bicubic", align_corners=True)[0, 0]


class Dice:
    """Random numbers of one batch, from one generator; the same numbers on any `device`."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator, self.device = torch.Generator().manual_seed(seed), device

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=self.generator) * (high - low) + low).to(self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def chance(self, probability: float, *shape: int) -> torch.Tensor:
        """Booleans."""
        return (torch.rand(*shape, generator=self.generator) < probability).to(self.device)

    def smooth(self, n: int, channels: int, cells: int, size: int) -> torch.Tensor:
        """(n, channels, size, size) smooth fields of about unit deviation with `cells` features a side."""
        matrix = cubic(cells, size).to(self.device)
        return matrix @ self.normal(n, channels, cells, cells) @ matrix.T


@dataclass(frozen=True)
class Spread:
    """How different two subjects are.

    scale, aspect: log deviation; angle: radians; shift and warps: fraction of half the picture. Chosen so that copying
    a reference mask scores on these pairs about what it scores between real subjects.
    """

    scale: float = 0.10
    aspect: float = 0.06
    angle: float = 0.10
    shift: float = 0.07
    warp: tuple[tuple[int, float], ...] = ((4, 0.07), (8, 0.03), (16, 0.010))


def views(dice: Dice, n: int, chance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom (n, 1, 1, 1) and pan (n, 1, 1, 2) of n fields of view: with `chance` another than the usual one."""
    other = dice.chance(chance, n, 1, 1, 1)
    return torch.exp(dice.normal(n, 1, 1, 1) * 0.16 * other), dice.normal(n, 1, 1, 2) * 0.10 * other


def coarse(size: int) -> int:
    """Knots a side of a sampling grid before it is refined: one in four pixels, the outer ones at the outer pixels."""
    return size // 4 + 1


def affine_grid(dice: Dice, n: int, size: int, spread: Spread, amount: torch.Tensor) -> torch.Tensor:
    """(n, C, C, 2) sampling grids of random affine + smooth deformation, at C = coarse(size) knots a side.

    size: pixels a side of what is sampled. amount: (n,) multiplies the spread.
    """
    a, knots = amount[:, None, None], coarse(size)
    scale = torch.exp(dice.normal(n, 1, 1) * spread.scale * a)
    aspect = torch.exp(dice.normal(n, 1, 1) * spread.aspect * a)
    angle = dice.normal(n, 1, 1) * spread.angle * a
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.cat(
        [torch.cat([cos * scale * aspect, -sin * scale], 2), torch.cat([sin * scale * aspect, cos * scale], 2)], 1
    )
    shift = dice.normal(n, 2, 1) * spread.shift * a
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, knots, device=matrix.device)
    places = torch.stack([line.expand(knots, -1), line[:, None].expand(-1, knots)])  # x, y of each knot
    grid = (matrix @ places.flatten(1) + shift).view(n, 2, knots, knots).permute(0, 2, 3, 1)
    for cells, amplitude in spread.warp:
        grid = grid + dice.smooth(n, 2, cells, knots).permute(0, 2, 3, 1) * (amplitude * a[..., None])
    return grid


def refined(grid: torch.Tensor, size: int) -> torch.Tensor:
    """(N, C, C, 2) to (N, size, size, 2)."""
    channels = grid.permute(0, 3, 1, 2)
    return F.interpolate(channels, size=(size, size), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)


def sample_labels(labels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """labels: (N, P, P) uint8 -> (N, S, S) int64, nearest neighbour; 0 beyond the picture."""
    return F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)[
        :, 0
    ].long()


def sample_images(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """images: (N, P, P) in 0 to 1 -> (N, S, S), bilinear; 0 beyond the picture."""
    return F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]
