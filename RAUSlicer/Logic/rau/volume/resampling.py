"""Label maps onto the grid of their image: exactly where the grids share their voxels, else by the nearest voxel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rau.errors import InputError
from rau.volume.labels import values_of
from rau.volume.volume import Geometry, LabelMap

_LOSS_TOLD = 0.01


def labels_on_grid(labels: LabelMap, geometry: Geometry) -> tuple[LabelMap, str]:
    """The label map on `geometry`, and a line that says what was done; "" when both are the same grid.

    Grids that differ in the order or direction of their axes only are the same grid: voxels are moved, never altered.
    Raises InputError when the boxes of both grids do not meet, when pictures without a scale differ in size, and when a
    structure would be left without a voxel.
    """
    if labels.geometry.matches(geometry):
        return replace(labels, geometry=geometry), ""
    _refuse_unplaced(labels.geometry, geometry)
    if not _overlap(labels.geometry, geometry):
        raise InputError(
            "The label map and its image lie in different places: they do not overlap",
            "Give the label map of this image",
        )
    moved = _whole_steps(labels.geometry, geometry)
    array = _nearest(labels, geometry) if moved is None else _placed(labels.array, *moved, geometry.shape)
    missing = set(values_of(labels.array)) - set(values_of(array))
    if missing:
        names = ", ".join(one.name for one in labels.structures if one.value in missing) or "all labels"
        raise InputError(
            f"On the grid of the image nothing would be left of: {names}", "Give a label map made for this image"
        )
    cell = 1.0 if moved is not None else float(np.prod(geometry.spacing) / np.prod(labels.geometry.spacing))
    lost = _loss(float(np.count_nonzero(labels.array)), cell * float(np.count_nonzero(array)))
    if moved is not None and lost == 0 and sorted(labels.geometry.shape) == sorted(geometry.shape):
        return LabelMap(array, geometry, labels.structures), ""
    said = (
        "The label map lies on another grid than its image: resampled to it by the nearest voxel"
        if moved is None
        else "The label map covers another part of its image's grid: fitted to it voxel by voxel"
    )
    if lost > _LOSS_TOLD:
        said += f"; {lost:.0%} of the labelled volume lies outside the image"
    return LabelMap(array, geometry, labels.structures), said


def _refuse_unplaced(one: Geometry, other: Geometry) -> None:
    """Pictures have no place in the world: only their size can tell whether they belong together."""
    placeless = all(
        g.shape[0] == 1 and g.spacing == (1.0, 1.0, 1.0) and not any(g.origin) and g.matches(Geometry(g.shape))
        for g in (one, other)
    )
    if placeless and one.shape != other.shape:
        raise InputError(
            f"The label map has {one.shape[1]} x {one.shape[2]} pixels, its image {other.shape[1]} x {other.shape[2]}",
            "Give a label picture of the image's size",
        )


def _overlap(one: Geometry, other: Geometry) -> bool:
    return _reaches(one, other) or _reaches(other, one)


def _reaches(inner: Geometry, outer: Geometry) -> bool:
    """Whether a point of a lattice over the box of `inner` lies in the box of `outer` (voxels have a size)."""
    lines = [np.linspace(-0.499, n - 0.501, min(2 * n, 48)) for n in inner.shape]
    lattice = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    index = outer.to_index(inner.to_world(lattice))
    return bool(np.any(np.all((index > -0.5) & (index < np.array(outer.shape) - 0.5), axis=1)))


def _whole_steps(source: Geometry, target: Geometry) -> tuple[np.ndarray, np.ndarray] | None:
    """(matrix, offset) of whole numbers from target to source indices, when the grids share their voxels; else None."""
    relation = np.linalg.inv(source.affine) @ target.affine
    matrix, offset = np.rint(relation[:3, :3]), np.rint(relation[:3, 3])
    if not np.array_equal(np.abs(matrix).sum(0), np.ones(3)) or not np.array_equal(np.abs(matrix).sum(1), np.ones(3)):
        return None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in target.shape], indexing="ij")).reshape(3, -1)
    exact = relation[:3, :3] @ corners + relation[:3, 3:4]
    stepped = matrix @ corners + offset[:, None]
    error = np.abs(exact - stepped).max(axis=1) * np.array(source.spacing)
    return (matrix.astype(int), offset.astype(int)) if error.max() <= 0.01 else None


def _placed(array: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Copy the shared voxels: source index = matrix @ target index + offset, matrix a signed permutation."""
    order = [int(np.flatnonzero(matrix[:, axis])[0]) for axis in range(3)]
    result = np.zeros(shape, dtype=array.dtype)
    to, since = [], []
    for axis in range(3):
        source = order[axis]
        sign = int(matrix[source, axis])
        index = np.arange(shape[axis])
        reached = sign * index + int(offset[source])
        valid = (reached >= 0) & (reached < array.shape[source])
        to.append(index[valid])
        since.append(reached[valid])
    result[np.ix_(*to)] = np.transpose(array, order)[np.ix_(*since)]
    return result


def _nearest(labels: LabelMap, geometry: Geometry) -> np.ndarray:
    import SimpleITK as sitk

    from rau.volume.itk import to_itk

    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    resampler.SetSize(geometry.shape[::-1])
    resampler.SetOutputSpacing(geometry.spacing[::-1])
    resampler.SetOutputOrigin(geometry.origin)
    resampler.SetOutputDirection(np.asarray(geometry.direction)[:, ::-1].ravel().tolist())
    array: np.ndarray = sitk.GetArrayFromImage(resampler.Execute(to_itk(labels.array, labels.geometry)))
    return array


def _loss(before: float, after: float) -> float:
    """Share of the labelled volume that is gone, 0 to 1."""
    return max(0.0, 1.0 - after / before) if before else 0.0
