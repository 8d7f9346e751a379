"""What a result is measured against: the reference's mask laid over the target, and registration by ConvexAdam."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np

from rau.references.reference import Reference
from rau.volume.orientation import Orientation, canonical
from rau.volume.volume import LabelMap, Volume
from rau.volume.window import to_uint8

SMALLEST = 24  # voxels an axis: ConvexAdam's coarse grid needs at least four cells of six


def copied(reference: Reference, target: Volume) -> LabelMap:
    """The reference's label map on the target's grid, each voxel at the same relative position in its volume.

    Both are brought to the canonical orientation first; nearest voxel.
    """
    labels, _, _ = canonical(reference.labels.array, reference.labels.geometry)
    _, grid, orientation = canonical(target.array, target.geometry)
    return _on_target(stretched(labels, grid.shape), target, orientation, reference)


def registered(reference: Reference, target: Volume) -> LabelMap:
    """The reference's label map moved by ConvexAdam with MIND features (Siebert 2021), on the CPU, default settings.

    The reference is stretched onto the target's grid, as in `copied`, then registered to it. 3-D grey volumes only;
    axes shorter than 24 voxels are padded by their border.
    """
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt
    from scipy.ndimage import map_coordinates

    fixed, grid, orientation = canonical(to_uint8(target), target.geometry)
    image, _, _ = canonical(to_uint8(reference.image), reference.image.geometry)
    labels, _, _ = canonical(reference.labels.array, reference.labels.geometry)
    moving, labels = stretched(image, grid.shape, linear=True), stretched(labels, grid.shape)
    pad = [(0, max(0, SMALLEST - n)) for n in grid.shape]
    pair = [np.pad(a, pad, mode="edge").astype(np.float32) for a in (fixed, moving)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shift = convex_adam_pt(*pair, dtype=torch.float32, device=torch.device("cpu"))
    inside = shift[tuple(slice(0, n) for n in grid.shape)]
    where = np.indices(grid.shape, dtype=np.float64) + np.moveaxis(inside, 3, 0)
    return _on_target(map_coordinates(labels, where, order=0, mode="nearest"), target, orientation, reference)


def stretched(array: np.ndarray, shape: tuple[int, int, int], linear: bool = False) -> np.ndarray:
    """(S, R, C) resampled to `shape`, border on border; nearest voxel unless `linear`."""
    from scipy.ndimage import map_coordinates

    axes = [np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1) for n, m in zip(shape, array.shape, strict=True)]
    if not linear:
        return array[np.ix_(*(np.floor(axis + 0.5).astype(int).clip(0, m - 1) for axis, m in zip(axes, array.shape)))]
    return map_coordinates(array.astype(np.float32), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


def _on_target(array: np.ndarray, target: Volume, orientation: Orientation, reference: Reference) -> LabelMap:
    return LabelMap(orientation.back(array), target.geometry, reference.structures)
