"""What lies around one structure: a shell of its surroundings, and how near the others come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rau.description.frame import Frame

REACH = 5.0  # mm: how far the surroundings go, where voxels allow
FEWEST, MOST = 2, 4  # but at least and at most this many of the finest voxels
UNKNOWN = 3.0  # voxels, where the spacing is not known
SLAB = 1 << 23  # voxels looked at together


@dataclass(frozen=True)
class Surroundings:
    """shell: flat indices into `frame.labels` of all voxels within reach that are not the structure's, rising.

    gaps: {label value: least distance between the centres of a voxel of it and one of the structure} within reach.
    """

    shell: np.ndarray
    gaps: dict[int, float]


def reach_of(frame: Frame) -> float:
    """How far the surroundings of a structure go, in the frame's unit."""
    finest = min(frame.spacing[axis] for axis in frame.measured)
    return UNKNOWN if frame.unit != "mm" else float(np.clip(REACH, FEWEST * finest, MOST * finest))


def surroundings(frame: Frame, value: int, box: tuple[slice, ...]) -> Surroundings:
    """Look around one structure. box: its bounding box in the frame's arrays."""
    reach = reach_of(frame)
    gaps: dict[int, float] = {}
    shells = [np.zeros(0, np.int64)]
    for slab, kept in _slabs(frame, box, reach):
        labels = frame.labels[slab]
        squares = squared_distances(labels == value, frame, reach)[kept]
        near = (squares > 0) & (squares <= reach**2 * (1 + 1e-6))
        places = np.nonzero(near)
        found = labels[kept][near]
        start = [one.start + inner.start for one, inner in zip(slab, kept, strict=True)]
        index = tuple(line + first for line, first in zip(places, start, strict=True))
        shells.append(np.ravel_multi_index(index, frame.geometry.shape))
        distances = squares[near]
        for other in np.flatnonzero(np.bincount(found)).tolist():
            if other:
                gap = float(np.sqrt(distances[found == other].min()))
                gaps[other] = min(gap, gaps.get(other, gap))
    return Surroundings(np.concatenate(shells), gaps)


def squared_distances(mask: np.ndarray, frame: Frame, reach: float) -> np.ndarray:
    """float32 of the mask's shape: squared distance to the nearest voxel of the mask; exact up to `reach`, inf beyond.

    The distance transform by one axis after the other (Felzenszwalb and Huttenlocher 2012, Eq. 2), with no more steps
    along an axis than reach there.
    """
    squares = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis in frame.measured:
        before, room = squares.copy(), np.empty_like(squares)
        for step in range(1, int(reach / frame.spacing[axis] + 1e-9) + 1):
            if step >= mask.shape[axis]:
                break
            cost = np.float32((step * frame.spacing[axis]) ** 2)
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -step), slice(step, None)
            for to, since in ((tuple(low), tuple(high)), (tuple(high), tuple(low))):
                np.add(before[since], cost, out=room[to])
                np.minimum(squares[to], room[to], out=squares[to])
    return squares


def _slabs(frame: Frame, box: tuple[slice, ...], reach: float) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """(slab of the frame's arrays, the part of the slab that is its own): `box` and a margin of `reach`."""
    margin = [int(reach / s + 1e-9) if axis in frame.measured else 0 for axis, s in enumerate(frame.spacing)]
    shape = frame.geometry.shape
    low = [max(0, one.start - m) for one, m in zip(box, margin, strict=True)]
    high = [min(n, one.stop + m) for one, m, n in zip(box, margin, shape, strict=True)]
    thick = max(1 + 2 * margin[0], SLAB // ((high[1] - low[1]) * (high[2] - low[2])))
    for start in range(low[0], high[0], thick):
        stop = min(high[0], start + thick)
        first, last = max(low[0], start - margin[0]), min(high[0], stop + margin[0])
        slab = (slice(first, last), slice(low[1], high[1]), slice(low[2], high[2]))
        sizes = (high[1] - low[1], high[2] - low[2])
        yield slab, (slice(start - first, stop - first), slice(0, sizes[0]), slice(0, sizes[1]))
