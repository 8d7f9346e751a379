"""One canonical orientation: slices towards the head, rows towards the back, columns towards the patient's left."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from rau.volume.volume import Geometry

_WORLD_OF_AXIS = (2, 1, 0)


@dataclass(frozen=True)
class Orientation:
    """The way from a source array to its canonical form, and exactly back.

    order: canonical axis a is the source's axis order[a]. flipped: canonical axis a runs against it.
    shape: the source's.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: tuple[int, int, int]

    def forth(self, array: np.ndarray) -> np.ndarray:
        """Source array (S, R, C[, ...]) to canonical order; a contiguous copy."""
        rest = tuple(range(3, array.ndim))
        turned = np.transpose(array, self.order + rest)
        return np.ascontiguousarray(turned[self._flips()])

    def back(self, array: np.ndarray) -> np.ndarray:
        """Canonical array (S, R, C[, ...]) to the source's order, voxel for voxel; a contiguous copy."""
        rest = tuple(range(3, array.ndim))
        inverse = (self.order.index(0), self.order.index(1), self.order.index(2))
        return np.ascontiguousarray(np.transpose(array[self._flips()], inverse + rest))

    def axis_to_source(self, axis: int) -> int:
        """The source's axis that runs along canonical `axis`."""
        return self.order[axis]

    def index_to_source(self, axis: int, index: int) -> int:
        """Index along the source's axis `axis_to_source(axis)` of the plane at `index` along canonical `axis`."""
        return self.shape[self.order[axis]] - 1 - index if self.flipped[axis] else index

    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)


def canonical(array: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry, Orientation]:
    """Permute and flip the axes (never interpolate) so that they run (head, back, left) as closely as they can.

    array: (S, R, C) or (S, R, C, n). The geometry keeps its obliqueness. Exactly undone by `Orientation.back`.
    """
    orientation = orientation_of(geometry)
    return orientation.forth(array), canonical_geometry(geometry, orientation), orientation


def orientation_of(geometry: Geometry) -> Orientation:
    """How `canonical` turns arrays on this geometry."""
    direction = np.asarray(geometry.direction)

    def fit(order: tuple[int, ...]) -> float:
        return float(sum(abs(direction[_WORLD_OF_AXIS[axis], order[axis]]) for axis in range(3)))

    # rounded so that numerical noise never decides between two equally good orders; the first (identity) wins
    best = max(permutations(range(3)), key=lambda order: round(fit(order), 6))
    order = (best[0], best[1], best[2])
    against = [bool(direction[_WORLD_OF_AXIS[axis], order[axis]] < 0) for axis in range(3)]
    return Orientation(order, (against[0], against[1], against[2]), geometry.shape)


def canonical_geometry(geometry: Geometry, orientation: Orientation) -> Geometry:
    """The geometry of arrays that `orientation.forth` has turned."""
    order = orientation.order
    sign = np.where(orientation.flipped, -1.0, 1.0)
    corner = np.zeros(3)
    for axis in range(3):
        corner[order[axis]] = orientation.index_to_source(axis, 0)
    x, y, z = geometry.to_world(corner[None])[0]
    return Geometry(
        shape=(geometry.shape[order[0]], geometry.shape[order[1]], geometry.shape[order[2]]),
        spacing=(geometry.spacing[order[0]], geometry.spacing[order[1]], geometry.spacing[order[2]]),
        origin=(float(x), float(y), float(z)),
        direction=np.asarray(geometry.direction)[:, list(order)] * sign,
    )


def acquisition_axis(geometry: Geometry) -> int:
    """The axis across which the slices were taken: a single slice, or clearly the widest spacing; else 0 (axial)."""
    single = [axis for axis in range(3) if geometry.shape[axis] == 1]
    if single:
        return single[0]
    widest = int(np.argmax(geometry.spacing))
    others = [geometry.spacing[axis] for axis in range(3) if axis != widest]
    return widest if geometry.spacing[widest] > 1.3 * float(np.mean(others)) else 0
