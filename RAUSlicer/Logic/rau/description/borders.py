"""One walk over all faces between neighbouring voxels: who borders on whom, and how steep the image is there.

A face lies between two voxels that are neighbours along one axis; its area is the product of the other two spacings
(its length, in a single slice). Done in slabs, so that large volumes need little room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rau.description.frame import Frame

SLAB = 1 << 23  # voxels looked at together
OUTSIDE = -1  # beyond the edge of the image


@dataclass
class Borders:
    """By label value. area: {(a, b): shared area}, both ways round; b is 0 (background) or OUTSIDE too.

    step, slope: {a: sum over a's faces inside the image} of the absolute difference of the two voxels, and of that over
    their distance; faces: {a: their count}. inside, pairs: {a: the same sum of differences, and count} of neighbours
    that both belong to a.
    """

    area: dict[tuple[int, int], float] = field(default_factory=dict)
    step: dict[int, float] = field(default_factory=dict)
    slope: dict[int, float] = field(default_factory=dict)
    faces: dict[int, int] = field(default_factory=dict)
    inside: dict[int, float] = field(default_factory=dict)
    pairs: dict[int, int] = field(default_factory=dict)

    def total(self, value: int) -> float:
        """Area of all faces of a structure, those at the image's edge too."""
        return sum(area for (one, _), area in self.area.items() if one == value)

    def shares(self, value: int) -> dict[int, float]:
        """{b: share of the border of `value` that it has in common with b}, 0 to 1, without the background."""
        total = self.total(value)
        found = {b: round(area / total, 9) for (a, b), area in self.area.items() if a == value and b > 0}
        return dict(sorted(found.items()))


def brightness(image: np.ndarray) -> np.ndarray:
    """(S, R, C) float32 of an image (S, R, C) or (S, R, C, 3): itself, or the mean of the colours."""
    return image.mean(axis=3, dtype=np.float32) if image.ndim == 4 else image.astype(np.float32)


def find_borders(frame: Frame) -> Borders:
    """The borders of all structures of a frame."""
    found = Borders()
    for axis, low, high in _neighbours(frame):
        area = float(np.prod([frame.spacing[a] for a in frame.measured if a != axis]))
        one, other = frame.labels[low], frame.labels[high]
        differ = one != other
        steps = None
        if frame.image is not None:
            steps = np.abs(brightness(frame.image[low]) - brightness(frame.image[high]))
            same = ~differ & (one > 0)
            _add(found.inside, found.pairs, one[same], steps[same])
        a, b = one[differ].astype(np.int64), other[differ].astype(np.int64)
        here = None if steps is None else steps[differ].astype(np.float64)
        _count(found, a, b, here, area, frame.spacing[axis])
    _add_edges(found, frame)
    return found


def _neighbours(frame: Frame) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """(axis, low, high): all neighbours along each axis, in slabs."""
    shape = frame.geometry.shape
    thick = max(1, SLAB // (shape[1] * shape[2]))
    for start in range(0, shape[0], thick):
        stop = min(shape[0], start + thick)
        for axis in frame.measured:
            slab = slice(start, min(stop, shape[0] - 1) if axis == 0 else stop)
            low = [slab, slice(None), slice(None)]
            high = list(low)
            if axis == 0:
                high[0] = slice(slab.start + 1, slab.stop + 1)
            else:
                low[axis], high[axis] = slice(None, -1), slice(1, None)
            yield axis, tuple(low), tuple(high)


def _count(found: Borders, a: np.ndarray, b: np.ndarray, steps: np.ndarray | None, area: float, spacing: float) -> None:
    """Add the faces between voxels of unlike labels a and b (N,)."""
    if not len(a):
        return
    base = int(max(a.max(), b.max())) + 1
    keys, place = np.unique(a * base + b, return_inverse=True)
    counts = np.bincount(place, minlength=len(keys))
    sums = np.zeros(len(keys)) if steps is None else np.bincount(place, steps, len(keys))
    for key, count, step in zip(keys.tolist(), counts.tolist(), sums.tolist(), strict=True):
        one, other = divmod(key, base)
        for this, that in ((one, other), (other, one)):
            if this:
                found.area[this, that] = found.area.get((this, that), 0.0) + count * area
                found.step[this] = found.step.get(this, 0.0) + step
                found.slope[this] = found.slope.get(this, 0.0) + step / spacing
                found.faces[this] = found.faces.get(this, 0) + count


def _add(sums: dict[int, float], counts: dict[int, int], values: np.ndarray, weights: np.ndarray) -> None:
    if not values.size:
        return
    many = np.bincount(values)
    total = np.bincount(values, weights)
    for value in np.flatnonzero(many).tolist():
        sums[value] = sums.get(value, 0.0) + float(total[value])
        counts[value] = counts.get(value, 0) + int(many[value])


def _add_edges(found: Borders, frame: Frame) -> None:
    """The faces at the image's own edge."""
    for axis in frame.measured:
        area = float(np.prod([frame.spacing[a] for a in frame.measured if a != axis]))
        for index in (0, -1):
            counts = np.bincount(np.take(frame.labels, index, axis).ravel())
            for value in np.flatnonzero(counts).tolist():
                if value:
                    key = (value, OUTSIDE)
                    found.area[key] = found.area.get(key, 0.0) + int(counts[value]) * area
