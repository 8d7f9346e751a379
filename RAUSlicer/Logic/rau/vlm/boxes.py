"""Boxes in one unit, and the only place where a backend's coordinates are converted (papers.md, W5).

Everywhere in the engine a box is (x0, y0, x1, y1), half-open, x to the right and y downwards, as fractions 0 to 1 of
the square picture that the VLM reads. Arrays of boxes are (N, 4) float64 in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def as_array(boxes: Sequence[Box] | np.ndarray) -> np.ndarray:
    """(N, 4) float64 of N boxes; (0, 4) of none. ValueError for any other shape."""
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), not {array.shape}")
    return array


def as_box(row: np.ndarray) -> Box:
    """The tuple of one row, (4,)."""
    x0, y0, x1, y1 = (float(value) for value in row)
    return x0, y0, x1, y1


def centres(boxes: np.ndarray) -> np.ndarray:
    """(N, 2) centres, x before y, of (N, 4) boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def sizes(boxes: np.ndarray) -> np.ndarray:
    """(N, 2) width and height of (N, 4) boxes."""
    return boxes[:, 2:] - boxes[:, :2]


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) areas of (N, 4) boxes; 0 for swapped corners."""
    return np.prod(np.maximum(sizes(boxes), 0), axis=1)


def _overlap_and_union(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.prod(np.maximum(corner, 0), axis=2)
    return overlap, areas(a)[:, None] + areas(b)[None, :] - overlap


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is nothing."""
    return np.minimum(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0), 1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union, 0 to 1, of (N, 4) and (M, 4) boxes; 0 where both are without area."""
    return _share(*_overlap_and_union(a, b))


def giou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) generalised IoU, -1 to 1, of (N, 4) and (M, 4) boxes: IoU less the share of the hull in neither."""
    overlap, union = _overlap_and_union(a, b)
    hull = np.prod(np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2]), axis=2)
    return _share(overlap, union) - _share(np.maximum(hull - union, 0), hull)


def box_of_mask(mask: np.ndarray) -> Box | None:
    """The tight half-open box of a (rows, columns) mask, or None of an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


@dataclass(frozen=True)
class Convention:
    """How a backend writes the coordinates of a box (papers.md, W5).

    kind "pixels": absolute pixels of the resized picture, `extent` its side (Qwen2.5-VL).
    kind "grid": whole numbers 0 to `extent`, whatever the picture's size (1000 in Qwen3-VL style).
    ValueError for an extent below 1.
    """

    kind: Literal["pixels", "grid"]
    extent: int

    def __post_init__(self) -> None:
        if self.kind not in ("pixels", "grid") or self.extent < 1:
            raise ValueError(f"no such convention: {self.kind} of {self.extent}")

    def write(self, box: Box) -> tuple[int, int, int, int]:
        """The box as the backend writes it: clipped to the picture, at least one unit wide and high."""
        (x0, x1), (y0, y1) = self._span(box[0], box[2]), self._span(box[1], box[3])
        return x0, y0, x1, y1

    def read(self, numbers: Sequence[float]) -> Box:
        """The box that four of the backend's numbers mean; neither ordered nor clipped."""
        x0, y0, x1, y1 = (float(number) / self.extent for number in numbers)
        return x0, y0, x1, y1

    def _span(self, low: float, high: float) -> tuple[int, int]:
        first = self._nearest(low, 0, self.extent - 1)
        return first, self._nearest(high, first + 1, self.extent)

    def _nearest(self, fraction: float, least: int, most: int) -> int:
        return floor(min(max(fraction * self.extent + 0.5, least), most))
