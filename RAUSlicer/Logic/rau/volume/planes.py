"""Slices of a canonical array across one of its axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rau.sam.pixels import Frame


@dataclass(frozen=True)
class Planes:
    """The slices of `array` (S, R, C[, 3]) across `axis`; spacing: mm along each array axis.

    region: the part of every slice that the segmenter looks at, see `rau.sam.pixels.Frame`; None: all of it.
    """

    array: np.ndarray
    axis: int
    spacing: tuple[float, float, float]
    region: tuple[int, int, int, int] | None = None

    def __len__(self) -> int:
        return int(self.array.shape[self.axis])

    def __getitem__(self, index: int) -> np.ndarray:
        """Slice `index`: (rows, columns[, 3])."""
        return np.take(self.array, index, self.axis)

    def stack(self, indices: list[int]) -> np.ndarray:
        """(n, rows, columns[, 3])."""
        return np.moveaxis(np.take(self.array, indices, self.axis), self.axis, 0)

    @property
    def frame(self) -> Frame:
        """How a slice sits in the network's square."""
        shape = [n for i, n in enumerate(self.array.shape[:3]) if i != self.axis]
        spacing = [s for i, s in enumerate(self.spacing) if i != self.axis]
        return Frame.of((shape[0], shape[1]), (spacing[0], spacing[1]))

    @property
    def sight(self) -> Frame:
        """How what the segmenter looks at sits in its square: the region, or the whole slice."""
        return self.frame if self.region is None else self.frame.within(self.region)
