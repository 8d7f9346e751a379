"""What the expert sees of a pixel: filters at several scales, and where it lies.

Axes: B slices, C channels, D features, S pixels a side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCALES = (1.0, 2.0, 4.0, 8.0)  # deviations of the Gaussians, pixels
FREQUENCIES = (1.0, 2.0, 4.0)  # of the position code, half waves over the square


def gaussian(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """(B, C, H, W) smoothed by a Gaussian of `sigma` pixels, borders repeated."""
    import torch
    import torch.nn.functional as F

    radius, channels = max(1, math.ceil(3 * sigma)), images.shape[1]
    x = torch.arange(-radius, radius + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    images = F.pad(images, (radius,) * 4, mode="replicate")
    images = F.conv2d(images, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(images, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def edges(grey: torch.Tensor) -> list[torch.Tensor]:
    """Gradient and both curvatures (eigenvalues of the Hessian) of (B, 1, H, W): three of that shape."""
    import torch
    import torch.nn.functional as F

    p = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    middle = p[..., 1:-1, 1:-1]
    dx, dy = (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2
    xx = p[..., 1:-1, 2:] - 2 * middle + p[..., 1:-1, :-2]
    yy = p[..., 2:, 1:-1] - 2 * middle + p[..., :-2, 1:-1]
    xy = (p[..., 2:, 2:] - p[..., 2:, :-2] - p[..., :-2, 2:] + p[..., :-2, :-2]) / 4
    mean, root = (xx + yy) / 2, torch.sqrt(((xx - yy) / 2) ** 2 + xy**2 + 1e-12)
    return [torch.sqrt(dx**2 + dy**2 + 1e-12), mean + root, mean - root]


def filter_bank(images: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) in 0 to 1 -> (B, D, S, S): colours, and at each scale mean, gradient, curvatures, local contrast.

    Coarse scales are computed on shrunken images; edges are multiplied by the scale so that all are of one size.
    """
    import torch
    import torch.nn.functional as F

    side = images.shape[-1]
    found = [images]
    for sigma in SCALES:
        shrink = max(1, int(sigma) // 2)
        small = F.avg_pool2d(images, shrink) if shrink > 1 else images
        step = sigma / shrink
        smooth = gaussian(small, step)
        grey = smooth.mean(1, keepdim=True)
        gradient, high, low = edges(grey)
        parts = [smooth, gradient * step, high * step**2, low * step**2]
        if sigma > 1:
            square = gaussian(small.mean(1, keepdim=True) ** 2, step) - grey**2
            parts.append(square.clamp(min=0).sqrt())
        maps = torch.cat(parts, 1)
        if shrink > 1:
            maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
        found.append(maps)
    return torch.cat(found, 1)


def position_code(positions: torch.Tensor) -> torch.Tensor:
    """(..., A) coordinates, -1 to 1 over the square, to (..., A * 7): themselves, sines and cosines."""
    import torch

    found = [positions]
    for frequency in FREQUENCIES:
        found += [torch.sin(math.pi * frequency * positions), torch.cos(math.pi * frequency * positions)]
    return torch.cat(found, -1)
