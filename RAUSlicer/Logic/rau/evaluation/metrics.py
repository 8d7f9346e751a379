"""How well a label map agrees with the truth.

The rule for empty structures: absent in truth and result means nothing was asked and nothing was drawn, so there is no
score (None), and the structure stays out of means. Absent in one of the two only: 0. Distances between surfaces need
both: absent in one of the two, they have no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rau.errors import InputError
from rau.volume.volume import Geometry, LabelMap, Structure


@dataclass(frozen=True)
class Agreement:
    """One structure in truth and result. The masks' volumes in ml, distances in mm (pixels for pictures without scale).

    dice, iou: 0 to 1. surface: average symmetric surface distance. hausdorff95: see `hausdorff95`. difference: volume
    of the result less that of the truth, as a share of the truth's; None where the truth has none.
    """

    name: str
    truth_ml: float
    result_ml: float
    dice: float | None
    iou: float | None
    surface: float | None
    hausdorff95: float | None
    difference: float | None


def dice(truth: np.ndarray, result: np.ndarray) -> float | None:
    """2 |A and B| / (|A| + |B|) of two boolean arrays of one shape, 0 to 1; None where both are empty.

    Raises InputError when the shapes differ.
    """
    if truth.shape != result.shape:
        raise InputError(f"Label maps of {truth.shape} and {result.shape} cannot be compared")
    a, b = truth.astype(bool), result.astype(bool)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else None


def iou(truth: np.ndarray, result: np.ndarray) -> float | None:
    """|A and B| / |A or B| of two boolean arrays of one shape, 0 to 1; None where both are empty.

    Its mean over images is what papers call gIoU of masks. Raises InputError when the shapes differ.
    """
    known = dice(truth, result)
    return None if known is None else known / (2 - known)


def surface_of(mask: np.ndarray) -> np.ndarray:
    """(N, 3) indices (slice, row, column) of the voxels of a mask that have a face in common with the background.

    What lies outside of the array is background; along an axis of one voxel (a picture) there is none.
    """
    inside = mask.astype(bool)
    core = inside.copy()
    for axis in (a for a in range(mask.ndim) if mask.shape[a] > 1):
        padded = np.pad(inside, [(1, 1) if a == axis else (0, 0) for a in range(mask.ndim)])
        core &= np.take(padded, range(mask.shape[axis]), axis) & np.take(padded, range(2, mask.shape[axis] + 2), axis)
    return np.argwhere(inside & ~core)


def surface_distances(
    truth: np.ndarray, result: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray] | None:
    """From every surface voxel of each mask to the nearest one of the other, mm; None where one of them is empty.

    Between the centres of the voxels, in the world: exact for oblique, anisotropic and sheared grids.
    """
    from scipy.spatial import cKDTree

    one, other = (geometry.to_world(surface_of(mask)) for mask in (truth, result))
    if not len(one) or not len(other):
        return None
    return cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]


def average_surface_distance(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """The mean over the surface voxels of both masks together, mm."""
    return float(np.concatenate(distances).mean())


def hausdorff95(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """The larger of the 95th percentiles of both directions, mm."""
    return float(max(np.percentile(one, 95) for one in distances))


def agreement(truth: LabelMap, result: LabelMap, name: str) -> Agreement:
    """All figures of the structure of that name in two label maps. Raises InputError when the grids differ."""
    if not truth.geometry.matches(result.geometry):
        raise InputError("The result lies on another grid than the truth")
    one, other = mask_of(truth, name), mask_of(result, name)
    voxel = float(abs(np.linalg.det(truth.geometry.affine[:3, :3]))) / 1000
    box = box_of(one | other)
    distances = surface_distances(one[box], other[box], truth.geometry)
    ours, theirs = float(np.count_nonzero(other) * voxel), float(np.count_nonzero(one) * voxel)
    return Agreement(
        name,
        theirs,
        ours,
        dice(one, other),
        iou(one, other),
        None if distances is None else average_surface_distance(distances),
        None if distances is None else hausdorff95(distances),
        (ours - theirs) / theirs if theirs else None,
    )


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds the mask and, where the array goes on, one voxel around it; empty for none."""
    box = []
    for axis in range(mask.ndim):
        reached = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(0, int(reached[0]) - 1), int(reached[-1]) + 2) if len(reached) else slice(0, 0))
    return tuple(box)


def dice_of_values(truth: np.ndarray, result: np.ndarray, values: Iterable[int]) -> dict[int, float | None]:
    """Dice of each label value; see `dice`."""
    return {value: dice(truth == value, result == value) for value in values}


def dice_of_structures(
    truth: LabelMap, result: LabelMap, structures: Iterable[Structure] | None = None
) -> dict[str, float | None]:
    """Dice by structure (default: those of the truth); both sides are looked up by name, whatever their label values.

    A side that does not know the structure shows none of it. Raises InputError when the grids differ.
    """
    if not truth.geometry.matches(result.geometry):
        raise InputError("The result lies on another grid than the truth")
    chosen = truth.structures if structures is None else structures
    return {one.name: dice(mask_of(truth, one.name), mask_of(result, one.name)) for one in chosen}


def mask_of(labels: LabelMap, name: str) -> np.ndarray:
    """The voxels of the structure of that name (case does not matter); none where the map does not know it."""
    values = [one.value for one in labels.structures if one.name.lower() == name.lower()]
    return np.isin(labels.array, values)


def mean(scores: Iterable[float | None]) -> float | None:
    """The mean of what has a score; None when nothing has."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def mean_of(scores: Mapping[int, float | None] | Mapping[str, float | None]) -> float | None:
    """The mean over the structures that have a score."""
    return mean(scores.values())
