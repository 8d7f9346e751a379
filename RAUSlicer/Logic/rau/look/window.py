"""The part of a slice that a closer look sees: a square, in parts of the square that the whole slice sits in.

Coordinates are those of `rau.sam.pixels.Frame`: (row, column), 0 to 1 over the square's side; true proportions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rau.sam.pixels import Frame


@dataclass(frozen=True)
class Window:
    """row, column: the middle; side: the length of a side. All in parts of the slice's square."""

    row: float
    column: float
    side: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(row0, column0, row1, column1)."""
        half = self.side / 2
        return self.row - half, self.column - half, self.row + half, self.column + half

    def within(self, frame: Frame) -> Window:
        """Moved so that it shows as much of the slice as it can; in the middle of a slice narrower than itself."""
        middle = []
        for centre, part in zip((self.row, self.column), frame.fraction, strict=True):
            slack = max(0.0, (part - self.side) / 2)
            middle.append(float(np.clip(centre, 0.5 - slack, 0.5 + slack)))
        return replace(self, row=middle[0], column=middle[1])


def longest(frame: Frame) -> float:
    """Original pixels along a side of the square, of the axis that has more of them."""
    return max(n / part for n, part in zip(frame.shape, frame.fraction, strict=True))


def corner(frame: Frame) -> tuple[float, float]:
    """(row, column) of the slice's first corner in the square."""
    return (1 - frame.fraction[0]) / 2, (1 - frame.fraction[1]) / 2


def bounding(mask: np.ndarray, frame: Frame) -> Window | None:
    """The bounding square of a mask (rows, columns), its longer side decides; None where the mask is empty."""
    first = corner(frame)
    ends = []
    for axis in (0, 1):
        shown = np.nonzero(mask.any(axis=1 - axis))[0]
        if not len(shown):
            return None
        scale = frame.fraction[axis] / frame.shape[axis]
        ends.append((first[axis] + shown[0] * scale, first[axis] + (shown[-1] + 1) * scale))
    (top, bottom), (left, right) = ends
    return Window((top + bottom) / 2, (left + right) / 2, max(bottom - top, right - left))


def around(found: Window, size: float, margin: float, least: float, frame: Frame) -> Window:
    """A window `margin` times as long as the larger of `found` and `size`, at least `least`, at most the square."""
    side = min(1.0, max(margin * max(found.side, size), least))
    return replace(found, side=side).within(frame)


def overlap(one: Window, other: Window) -> float:
    """Intersection over union, 0 to 1."""
    edges = []
    for low in (0, 1):
        edges.append(min(one.box[low + 2], other.box[low + 2]) - max(one.box[low], other.box[low]))
    both = max(0.0, edges[0]) * max(0.0, edges[1])
    return both / (one.side**2 + other.side**2 - both)
