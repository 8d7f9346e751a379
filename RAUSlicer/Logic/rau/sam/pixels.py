"""Slices in and out of the network: square, `size` pixels, three channels; masks back on the slice's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

MEAN, STD = 0.5, 0.25


@dataclass(frozen=True)
class Frame:
    """How a slice of (rows, columns) pixels sits in the network's square.

    The slice, or the region of it that is looked at, is stretched to true proportions by its pixel spacing, then
    centred in a square; fraction: the part of the square's height and width that it covers, each in (0, 1]. region:
    first row, end of rows, first column, end of columns; None: the whole slice.
    """

    shape: tuple[int, int]
    fraction: tuple[float, float]
    region: tuple[int, int, int, int] | None = None

    @staticmethod
    def of(shape: tuple[int, int], spacing: tuple[float, float]) -> Frame:
        """shape: (rows, columns) voxels; spacing: mm (or any unit) between rows and between columns."""
        height, width = shape[0] * spacing[0], shape[1] * spacing[1]
        side = max(height, width)
        return Frame(shape, (height / side, width / side))

    def within(self, region: tuple[int, int, int, int]) -> Frame:
        """The frame of a part of the slice alone; the whole of this one is the slice's."""
        row, rows, column, columns = region
        shares = (rows - row) / self.shape[0], (columns - column) / self.shape[1]
        height, width = (part * share for part, share in zip(self.fraction, shares, strict=True))
        side = max(height, width)
        return Frame(self.shape, (height / side, width / side), region)

    @property
    def looked_at(self) -> tuple[slice, slice]:
        """Rows and columns that are in the square."""
        row, rows, column, columns = self.region or (0, self.shape[0], 0, self.shape[1])
        return slice(row, rows), slice(column, columns)

    def pixels(self, size: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the slice in a square of `size` pixels; at least one pixel each way."""
        height = max(1, round(size * self.fraction[0]))
        width = max(1, round(size * self.fraction[1]))
        return (size - height) // 2, (size - width) // 2, height, width


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 1 or 3, S, S) in 0 to 1 to (B, 3, S, S) with mean 0.5 and deviation 0.25 taken out."""
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def to_square(slices: np.ndarray, frame: Frame, size: int) -> torch.Tensor:
    """uint8 slices (B, rows, columns) or (B, rows, columns, 3) to (B, 1 or 3, size, size) in 0 to 1, padded with 0."""
    import torch
    import torch.nn.functional as F

    top, left, height, width = frame.pixels(size)
    x = torch.from_numpy(np.ascontiguousarray(slices[:, frame.looked_at[0], frame.looked_at[1]])).float().div_(255)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    shrinking = height < x.shape[2] or width < x.shape[3]
    x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False, antialias=shrinking)
    return F.pad(x, (left, size - left - width, top, size - top - height))


def masks_to_square(masks: np.ndarray, frame: Frame, size: int) -> torch.Tensor:
    """Boolean masks (K, rows, columns) to (K, 1, size, size) of 0 and 1, by area coverage of at least a half.

    A structure that is smaller than half a pixel keeps its best covered pixel, so that it never vanishes.
    """
    x = to_square(masks.astype(np.uint8) * 255, frame, size)
    peak = x.flatten(1).max(1).values.clamp(min=1e-6, max=0.5)[:, None, None, None]
    return (x >= peak).float()


def from_square(maps: torch.Tensor, frame: Frame) -> np.ndarray:
    """Values on the square (K, S', S') (logits or probabilities, any S') to the slice's pixels (K, rows, columns).

    0 outside of the region.
    """
    import torch.nn.functional as F

    side = maps.shape[-1]
    shape = tuple(one.stop - one.start for one in frame.looked_at)
    rows, columns = (max(1, round(n / part)) for n, part in zip(shape, frame.fraction, strict=True))
    x = F.interpolate(maps[:, None], size=(rows, columns), mode="bilinear", align_corners=False, antialias=side > rows)
    top, left = (rows - shape[0]) // 2, (columns - shape[1]) // 2
    there = x[:, 0, top : top + shape[0], left : left + shape[1]].numpy()
    if frame.region is None:
        return there
    whole = np.zeros((len(there), *frame.shape), there.dtype)
    whole[:, frame.looked_at[0], frame.looked_at[1]] = there
    return whole
