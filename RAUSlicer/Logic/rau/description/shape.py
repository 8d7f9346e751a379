"""The shape of one mask, from its voxels alone: moments, hull, surface, pieces.

Masks are (n0, n1, n2) bool, cut to their bounding box; `axes` are the array axes with an extent (all three, or the two
of a single slice); a voxel is a box, not a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product

import numpy as np


def moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (3,) and covariance (3, 3) of the indices of the voxels, each spread over its box (1/12 on the diagonal)."""
    count = np.count_nonzero(mask)
    lines = [np.arange(n, dtype=np.float64) for n in mask.shape]
    planes = {pair: mask.sum(axis=3 - sum(pair), dtype=np.int64) for pair in combinations(range(3), 2)}
    along = [planes[0, 1].sum(1), planes[0, 1].sum(0), planes[0, 2].sum(0)]
    mean = np.array([float(line @ sums) for line, sums in zip(lines, along, strict=True)]) / count
    covariance = np.empty((3, 3))
    for axis in range(3):
        covariance[axis, axis] = (lines[axis] - mean[axis]) ** 2 @ along[axis] / count + 1 / 12
    for (one, other), plane in planes.items():
        mixed = (lines[one] - mean[one]) @ plane @ (lines[other] - mean[other]) / count
        covariance[one, other] = covariance[other, one] = mixed
    return mean, covariance


def principal_axes(covariance: np.ndarray, spacing: Sequence[float], axes: Sequence[int]) -> tuple[float, ...]:
    """Full lengths, longest first, of the ellipsoid (ellipse) of the same second moments, in the unit of `spacing`.

    A solid ellipsoid of half axis r has the variance r^2 / 5 along it, a solid ellipse r^2 / 4.
    """
    chosen = np.array(axes)
    steps = np.array(spacing)[chosen]
    values = np.linalg.eigvalsh(covariance[np.ix_(chosen, chosen)] * np.outer(steps, steps))
    factor = {3: 5.0, 2: 4.0, 1: 3.0}[len(chosen)]
    return tuple(2 * float(np.sqrt(factor * max(0.0, value))) for value in values[::-1])


def tips(mask: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """(N, 3) voxels, among them every corner of the convex hull of the voxels' centres.

    A voxel midway between two opposite neighbours of the mask is no corner of the hull; only the others are kept.
    """
    padded = np.pad(mask, [(1, 1) if a in axes else (0, 0) for a in range(3)])
    kept = mask.copy()
    for way in product((-1, 0, 1), repeat=len(axes)):
        if way > (0,) * len(axes):
            one, other = [slice(None)] * 3, [slice(None)] * 3
            for axis, step in zip(axes, way, strict=True):
                one[axis] = slice(1 + step, mask.shape[axis] + 1 + step)
                other[axis] = slice(1 - step, mask.shape[axis] + 1 - step)
            kept &= ~(padded[tuple(one)] & padded[tuple(other)])
    return np.argwhere(kept)


def solidity(count: int, corners: np.ndarray, axes: Sequence[int]) -> float:
    """Share of its convex hull that the mask fills, 0 to 1: the same in every unit and direction.

    corners: `tips` of the mask. The hull is that of the centres of the voxels' faces, so that a ball of voxels counts
    as full; masks of a few voxels, which exceed it, are cut to 1.
    """
    from scipy.spatial import ConvexHull

    centres = corners[:, list(axes)]
    steps = np.concatenate([np.eye(len(axes)), -np.eye(len(axes))]) / 2
    faces = (centres[:, None] + steps).reshape(-1, len(axes))
    return min(1.0, count / float(ConvexHull(faces).volume))


def surface(mask: np.ndarray, spacing: Sequence[float], axes: Sequence[int]) -> float:
    """Surface (mm2; in a single slice the perimeter, mm) by Crofton's formula over the 13 (4) ways between neighbours.

    The number of times that parallel lines enter or leave the mask, averaged over the ways, each weighted by its part
    of the sphere (circle): nearly free of the steps that voxels make. Flat faces come out up to a tenth too small.
    """
    padded = np.pad(mask, [(1, 1) if a in axes else (0, 0) for a in range(3)])
    chosen = tuple(axes)
    ways, weights = _ways(tuple(float(spacing[a]) for a in chosen))
    cell = float(np.prod([spacing[a] for a in chosen]))
    total = 0.0
    for way, weight in zip(ways, weights, strict=True):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        for axis, step in zip(chosen, way, strict=True):
            low[axis] = slice(1, None) if step < 0 else slice(None, -1 if step else None)
            high[axis] = slice(None, -1) if step < 0 else slice(1 if step else None, None)
        crossed = np.count_nonzero(padded[tuple(low)] != padded[tuple(high)])
        length = float(np.linalg.norm(np.array(way) * [spacing[a] for a in chosen]))
        total += weight * crossed * cell / length
    return total


@lru_cache(maxsize=64)
def _ways(spacing: tuple[float, ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
    """Steps to half of the neighbours, and the weight of each: its part of the sphere / pi, of the circle / 2."""
    ways = [way for way in product((-1, 0, 1), repeat=len(spacing)) if way > (0,) * len(spacing)]
    points = np.array(ways, dtype=np.float64) * spacing
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    if len(spacing) == 2:
        angles = np.arctan2(points[:, 1], points[:, 0]) % np.pi
        order = np.argsort(angles)
        gaps = np.diff(np.append(angles[order], angles[order][0] + np.pi))
        sectors = np.empty(len(ways))
        sectors[order] = (gaps + np.roll(gaps, 1)) / 2
        return tuple(ways), tuple((sectors / 2).tolist())
    from scipy.spatial import SphericalVoronoi

    areas = SphericalVoronoi(np.concatenate([points, -points])).calculate_areas()
    return tuple(ways), tuple((areas[: len(ways)] / np.pi).tolist())


def compactness(size: float, around: float, dimensions: int) -> float:
    """1 for a ball (disc), towards 0 the more surface a mask has for its volume; estimates above 1 are cut to 1.

    In 3-D the surface of the ball of the same volume over `around`; in 2-D 4 pi area / perimeter squared.
    """
    if dimensions == 2:
        return min(1.0, 4 * np.pi * size / around**2)
    return min(1.0, float((36 * np.pi * size**2) ** (1 / 3)) / around)


def pieces(mask: np.ndarray) -> tuple[int, float]:
    """How many pieces (voxels that touch by a corner hang together), and the share of the largest, 0 to 1."""
    from scipy import ndimage

    marked, count = ndimage.label(mask, np.ones((3, 3, 3), bool))
    if count == 1:
        return 1, 1.0
    sizes = np.bincount(marked.ravel())[1:]
    return int(count), float(sizes.max() / sizes.sum())
