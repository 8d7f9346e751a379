"""New subjects and new appearances for a batch of label maps, on torch: deformation, rendering, degradation.

Axes: N frames (slices), S pixels a side. Everything random comes from one `torch.Generator`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

TABLE = 256  # label values of a frame: below this


class Dice:
    """Random numbers of one batch, from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> torch.Tensor:
        """Booleans."""
        return torch.rand(*shape, generator=self.generator) < probability

    def smooth(self, n: int, channels: int, cells: int, size: int) -> torch.Tensor:
        """(n, channels, size, size) smooth fields of about unit deviation with `cells` features a side."""
        return F.interpolate(
            self.normal(n, channels, cells, cells), size=(size, size), mode="bicubic", align_corners=True
        )


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


def affine_grid(dice: Dice, n: int, size: int, spread: Spread, amount: torch.Tensor) -> torch.Tensor:
    """(n, size, size, 2) sampling grids of random affine + smooth deformation. amount: (n,) multiplies the spread."""
    a = amount[:, None, None]
    scale = torch.exp(dice.normal(n, 1, 1) * spread.scale * a)
    aspect = torch.exp(dice.normal(n, 1, 1) * spread.aspect * a)
    angle = dice.normal(n, 1, 1) * spread.angle * a
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.cat(
        [torch.cat([cos * scale * aspect, -sin * scale], 2), torch.cat([sin * scale * aspect, cos * scale], 2)], 1
    )
    shift = dice.normal(n, 2, 1) * spread.shift * a
    grid = F.affine_grid(torch.cat([matrix, shift], 2), [n, 1, size, size], align_corners=False)
    for cells, amplitude in spread.warp:
        grid = grid + dice.smooth(n, 2, cells, size).permute(0, 2, 3, 1) * (amplitude * a[..., None])
    return grid


def sample_labels(labels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """labels: (N, P, P) uint8 -> (N, S, S) int64, nearest neighbour."""
    return F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)[
        :, 0
    ].long()


def sample_images(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """images: (N, P, P) in 0 to 1 -> (N, S, S), bilinear."""
    return F.grid_sample(images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def contrasts(dice: Dice, n: int, alike: float = 0.3) -> torch.Tensor:
    """(n, TABLE) mean intensity of each label value: random, and half the time with a dark outside.

    alike: chance that tissues share few brightnesses.
    """
    means = dice.uniform(0, 1, n, TABLE)
    few = (dice.uniform(0, 1, n, TABLE) * 4).floor() / 4 + dice.normal(n, TABLE) * 0.03
    means = torch.where(dice.chance(alike, n, 1), few, means)
    means[:, 0] = torch.where(dice.chance(0.5, n), torch.zeros(n), means[:, 0])
    return means


def render(dice: Dice, labels: torch.Tensor, means: torch.Tensor, textures: torch.Tensor) -> torch.Tensor:
    """A picture of each label map. labels: (N, S, S); means, textures: (N, TABLE) intensity and texture strength."""
    n, size = labels.shape[0], labels.shape[1]
    flat = labels.flatten(1)
    image = means.gather(1, flat).view(n, size, size)
    grain = (
        dice.smooth(n, 1, 24, size)[:, 0] * 0.6
        + dice.smooth(n, 1, 64, size)[:, 0] * 0.6
        + dice.normal(n, size, size) * 0.4
    )
    return image + textures.gather(1, flat).view(n, size, size) * grain


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of `sigma` pixels over (N, S, S)."""
    radius = max(1, math.ceil(2.5 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def speckle(dice: Dice, images: torch.Tensor) -> torch.Tensor:
    """Ultrasound-like: multiplicative grain, shadows fanning from the top."""
    n, size = images.shape[0], images.shape[1]
    grain = dice.uniform(0, 1, n, size, size).clamp(min=1e-3).log().neg().sqrt()
    shadow = torch.sigmoid(4 * (dice.normal(n, 1, 9) + 1.2))
    shadow = F.interpolate(shadow, size=size, mode="linear", align_corners=True)
    fade = torch.linspace(0, 1, size)[None, :, None]
    return images * grain * (1 - fade * (1 - shadow))


def degrade(dice: Dice, images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Scanner effects on (N, S, S): bias field, gamma, blur or low resolution, noise, then back to 0 to 1.

    strength: (N,), 1 for rendered pictures, less for real ones. The percentile stretch is that of `rau.volume.window`.
    """
    n, size = images.shape[0], images.shape[1]
    s = strength[:, None, None]
    images = stretch(images)
    images = images * torch.exp(dice.smooth(n, 1, 4, size)[:, 0] * 0.15 * s)
    ultrasound = dice.chance(0.08, n) & (strength > 0.9)
    if ultrasound.any():
        images[ultrasound] = speckle(dice, images[ultrasound])
    images = stretch(images) ** torch.exp(dice.normal(n, 1, 1) * 0.3 * s)
    pick = dice.uniform(0, 1, n) * strength
    for low, high, sigma in ((0.3, 0.55, 0.8), (0.55, 0.75, 1.5)):
        chosen = (pick > low) & (pick <= high)
        if chosen.any():
            images[chosen] = blur(images[chosen], sigma)
    coarse = pick > 0.75
    if coarse.any():
        small = F.interpolate(images[coarse][:, None], size=(size // 3, size // 3), mode="area")
        images[coarse] = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    noise = dice.uniform(0, 0.08, n, 1, 1) * s
    return (images + noise * dice.normal(n, size, size)).clamp(0, 1)


def stretch(images: torch.Tensor) -> torch.Tensor:
    """(N, S, S) to 0 to 1 between the 0.5 and 99.5 percentiles of a coarse sample of the pixels."""
    flat = images[:, ::4, ::4].flatten(1)
    low, high = torch.quantile(flat, torch.tensor([0.005, 0.995]), dim=1)[:, :, None, None]
    return ((images - low) / (high - low + 1e-4)).clamp(0, 1)
