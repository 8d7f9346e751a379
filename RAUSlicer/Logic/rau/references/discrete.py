"""Large displacements, found by trying them: features of self-similarity, a discrete search, then a gradient descent.

ConvexAdam (Siebert 2021) in two dimensions and three: MIND features (Heinrich 2012), coupled convex optimisation
(Heinrich 2014), consistency of both directions, and Adam. Axes: n spatial ones, (rows, columns) or (slices, rows,
columns); C features; D displacements tried; a *cell* is a position of the coarse grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the displacement of least cost to a smooth one, rising
CONSISTENT = 15  # steps that bring the way there and the way back together
AWAY = 2  # voxels between the patches that MIND compares, on either side of a voxel
NOISE = (1e-3, 1e3)  # of its mean: bounds of a voxel's own noise in MIND
SCALE = 12.0  # of the features' mean squared difference beside the stiffness


@dataclass(frozen=True)
class Search:
    """cell: voxels a side, a multiple of `fine`. reach: cells that are tried each way. radius: of the patches compared,
    voxels. brightness: how much it counts beside self-similarity, of images that correlate. fine: voxels a side of the
    grid that Adam moves, for `steps` steps of `rate` voxels of it, falling to 0. stiffness: what a change of a voxel
    from one of them to the next costs.
    """

    cell: int = 4
    reach: int = 6
    radius: int = 1
    brightness: float = 0.0
    fine: int = 2
    steps: int = 40
    rate: float = 1.0
    stiffness: float = 1.25


def displacements(fixed: np.ndarray, moving: np.ndarray, how: Search) -> np.ndarray:
    """Two images on one grid, (*shape,) -> (*shape, n) float32: from each voxel of `fixed` to its like in `moving`.

    In voxels, axes in array order. The same for the same images on any number of threads that torch uses.
    """
    with torch.inference_mode(False), torch.no_grad():
        more = [(0, -size % how.cell) for size in fixed.shape]
        padded = [np.pad(one.astype(np.float32), more, mode="edge") for one in (fixed, moving)]
        here, there = (torch.from_numpy(one)[None, None] for one in padded)
        features = described(here, there, how)
        cells = [pooled(one, how.cell) for one in features]
        found = consistent(convex(cells[0], cells[1], how.reach), convex(cells[1], cells[0], how.reach))
        found = descended(features[0], features[1], how.cell * found, how)
        found = resized(found, here.shape[2:])[0].movedim(0, -1)
        return found[tuple(slice(0, size) for size in fixed.shape)].contiguous().numpy()


def described(here: torch.Tensor, there: torch.Tensor, how: Search) -> list[torch.Tensor]:
    """(1, C, *shape) of each image: self-similarity, and brightness in deviations where it means the same in both."""
    features = [self_similarity(one, how.radius) for one in (here, there)]
    grey = [(one - one.mean()) / (one.std() + 1e-6) for one in (here, there)]
    if how.brightness == 0 or float((grey[0] * grey[1]).mean()) <= 0:
        return features
    return [torch.cat([one, how.brightness * other], 1) for one, other in zip(features, grey, strict=True)]


def self_similarity(image: torch.Tensor, radius: int) -> torch.Tensor:
    """(1, 1, *shape) -> (1, C, *shape) in 0 to 1: how alike the patches around a voxel are to each other.

    MIND-SSC (Heinrich 2013): every two of the patches next to the voxel that lie on different axes, 12 in 3-D; of the 4
    in 2-D, which are few, beside each the voxel's own patch with it (C = 8). No contrast or gain counts.
    """
    n = image.dim() - 2
    around = [tuple(sign * AWAY * (k == axis) for k in range(n)) for axis in range(n) for sign in (-1, 1)]
    shown = [moved(image, step) for step in around]
    apart = [(i, j) for j in range(2 * n) for i in range(j) if i // 2 != j // 2]
    pairs = [(shown[i], shown[j]) for i, j in apart] + [(image, one) for one in shown if n == 2]
    unlike = torch.cat([(one - other).square() for one, other in pairs], 1)
    unlike = _pool(n)(F.pad(unlike, (radius,) * (2 * n), mode="replicate"), 2 * radius + 1, stride=1)
    unlike = unlike - unlike.amin(1, keepdim=True)
    noise = unlike.mean(1, keepdim=True)
    usual = float(noise.mean()) + 1e-6
    return torch.exp(-unlike / noise.clamp(NOISE[0] * usual, NOISE[1] * usual))


def moved(x: torch.Tensor, step: Sequence[int]) -> torch.Tensor:
    """(1, C, *shape): at each voxel what lies `step` voxels on, the border repeated."""
    most = [abs(s) for s in step]
    padded = F.pad(x, [m for m in reversed(most) for _ in range(2)], mode="replicate")
    region = tuple(slice(m + s, m + s + size) for m, s, size in zip(most, step, x.shape[2:], strict=True))
    return padded[(slice(None), slice(None)) + region]


def convex(here: torch.Tensor, there: torch.Tensor, reach: int) -> torch.Tensor:
    """(1, C, *cells) twice -> (1, n, *cells), cells: the smooth displacement of little cost (Heinrich 2014, eq. 3-5).

    By turns: the displacement that costs least and is near the smooth one, and the smooth one of these.
    """
    tried = list(product(*(range(-r, r + 1) for r in (min(reach, size - 1) for size in here.shape[2:]))))
    cost = torch.stack([(here - moved(there, step)).square().sum(1) for step in tried], 1)
    cost = smooth(smooth(cost))[0]
    steps = torch.tensor(tried, dtype=torch.float32)

    def least(total: torch.Tensor) -> torch.Tensor:
        return smooth(steps[total.argmin(0)].movedim(-1, 0)[None])

    found = least(cost)
    for weight in COUPLING:
        far = (steps.view(*steps.shape, *[1] * steps.shape[1]) - found).square().sum(1)
        found = least(cost + weight * far)
    return found


def consistent(there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """The way there, (1, n, *cells), as far as the way back agrees."""
    for _ in range(CONSISTENT):
        there, back = 0.5 * (there - led(back, there)), 0.5 * (back - led(there, back))
    return there


def descended(here: torch.Tensor, there: torch.Tensor, start: torch.Tensor, how: Search) -> torch.Tensor:
    """(1, n, *grid), voxels of the features: what Adam makes of `start`, three times smoothed at every step."""
    a, b = (pooled(one, how.fine) for one in (here, there))
    with torch.enable_grad():
        steps = torch.nn.Parameter(resized(start, a.shape[2:]) / how.fine)
        optimiser = torch.optim.Adam([steps], how.rate)
        for step in range(how.steps):
            optimiser.param_groups[0]["lr"] = how.rate * (1 - step / how.steps)
            soft = smooth(smooth(smooth(steps)))
            rough = sum(soft.diff(dim=k).square().mean() for k in range(2, soft.dim()) if soft.shape[k] > 1)
            loss = SCALE * (led(b, soft) - a).square().mean() + how.stiffness * rough
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return how.fine * smooth(smooth(smooth(steps.detach())))


def led(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """(1, C, *shape): at each voxel what lies where `steps`, (1, n, *shape) in voxels, lead."""
    where = []
    for k, size in enumerate(x.shape[2:]):
        line = torch.arange(size, dtype=x.dtype).view([-1 if axis == k else 1 for axis in range(x.dim() - 2)])
        where.append((2 * (line + steps[0, k]) + 1) / size - 1)
    return F.grid_sample(x, torch.stack(where[::-1], -1)[None], padding_mode="border", align_corners=False)


def smooth(x: torch.Tensor) -> torch.Tensor:
    """The mean of each voxel and its neighbours, on axes of three and more; 0 beyond the border, where steps fade."""
    sides = [3 if size >= 3 else 1 for size in x.shape[2:]]
    return _pool(x.dim() - 2)(x, sides, stride=1, padding=[side // 2 for side in sides])


def pooled(x: torch.Tensor, side: int) -> torch.Tensor:
    """Means of `side` voxels a side."""
    return _pool(x.dim() - 2)(x, side)


def resized(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, size=tuple(shape), mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=False)


def _pool(n: int) -> Callable[..., torch.Tensor]:
    return F.avg_pool2d if n == 2 else F.avg_pool3d
