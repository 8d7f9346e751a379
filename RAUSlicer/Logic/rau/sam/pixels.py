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

    The slice is stretched to true proportions by its pixel spacing, then centred in a square; fraction: the part of the
    square's height and width that it covers, each in (0, 1].
    """

    shape: tuple[int, int]
    fraction: tuple[float, float]

    @staticmethod
    def of(shape: tuple[int, int], spacing: tuple[float, float]) -> Frame:
        """shape: (rows, columns) voxels; spacing: mm (or any unit) between rows and between columns."""
        height, width = shape[0] * spacing[0], shape[1] * spacing[1]
        side = max(height, width)
        return Frame(shape, (height / side, width / side))

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
    x = torch.from_numpy(np.ascontiguousarray(slices)).float().div_(255)
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
    """Values on the square (K, S', S') (logits or probabilities, any S') to the slice's pixels (K, rows, columns)."""
    import torch.nn.functional as F

    side = maps.shape[-1]
    rows = max(1, round(frame.shape[0] / frame.fraction[0]))
    columns = max(1, round(frame.shape[1] / frame.fraction[1]))
    x = F.interpolate(maps[:, None], size=(rows, columns), mode="bilinear", align_corners=False, antialias=side > rows)
    top, left = (rows - frame.shape[0]) // 2, (columns - frame.shape[1]) // 2
    return x[:, 0, top : top + frame.shape[0], left : left + frame.shape[1]].numpy()
