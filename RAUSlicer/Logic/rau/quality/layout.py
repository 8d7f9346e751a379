"""What can be measured of a label map alone: how its structures lie to each other, how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST = 120  # structures whose relations are measured; of more, the first


@dataclass(frozen=True)
class Layout:
    """K structures of one canonical label map that shows them.

    values: (K,) label values. order: (3, K, K), the chance that a random voxel of structure i lies further along the
    canonical axis (head, back, left) than one of structure j. contact: (K, K), the share of i's rim that is j.
    size: (K,) ml. extent: (K, 3) mm along the axes. Without a physical scale (pictures): shares of the picture.
    cut: (K,) whether a structure reaches the edge of the array, so that its size says nothing.
    """

    values: tuple[int, ...]
    order: np.ndarray
    contact: np.ndarray
    size: np.ndarray
    extent: np.ndarray
    cut: np.ndarray
    flat: bool

    def column(self, value: int) -> int | None:
        return self.values.index(value) if value in self.values else None


def measure(labels: np.ndarray, spacing: Sequence[float], values: Sequence[int]) -> Layout:
    """Measure a canonical label map (S, R, C); spacing: mm along its axes. Values that it does not show are left out.

    One slice is a picture: sizes and extents are shares of it, whatever its spacing.
    """
    from scipy import ndimage

    flat = labels.shape[0] == 1
    boxes = ndimage.find_objects(labels.astype(np.int32))
    shown = tuple(v for v in values if 0 < v <= len(boxes) and boxes[v - 1] is not None)[:MOST]
    unit = 1 / labels.size if flat else float(np.prod(spacing)) / 1000
    steps = 1 / np.array(labels.shape) if flat else np.asarray(spacing, float)
    lines = [np.zeros((len(shown), n)) for n in labels.shape]
    contact, size = np.zeros((len(shown), len(shown))), np.zeros(len(shown))
    extent, cut = np.zeros((len(shown), 3)), np.zeros(len(shown), bool)
    for i, value in enumerate(shown):
        box = boxes[value - 1]
        mask = labels[box] == value
        size[i] = mask.sum() * unit
        for axis, line in enumerate(lines):
            line[i] = line_of(mask, box, axis, labels.shape[axis])
            extent[i, axis] = (box[axis].stop - box[axis].start) * steps[axis]
            whole = flat and axis == 0
            cut[i] |= not whole and (box[axis].start == 0 or box[axis].stop == labels.shape[axis])
        contact[i] = touched(labels, box, value, shown)
    return Layout(shown, np.stack([further(line) for line in lines]), contact, size, extent, cut, flat)


def line_of(mask: np.ndarray, box: tuple[slice, ...], axis: int, length: int) -> np.ndarray:
    """(length,) share of the voxels of a mask at each place along an axis; mask: what lies in `box`."""
    line = np.zeros(length)
    line[box[axis]] = mask.sum(tuple(a for a in range(3) if a != axis)) / mask.sum()
    return line


def further(line: np.ndarray) -> np.ndarray:
    """(K, L) distributions along an axis -> (K, K) chance that a voxel of i lies further than one of j; ties half."""
    below = np.cumsum(line, axis=1) - 0.5 * line
    return np.asarray(line @ below.T)


def touched(labels: np.ndarray, box: tuple[slice, ...], value: int, values: Sequence[int]) -> np.ndarray:
    """(K,) share of the rim (one voxel wide) about a structure that belongs to each of `values`."""
    from scipy import ndimage

    grown = tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, labels.shape))
    around = labels[grown]
    mask = around == value
    rim = around[ndimage.binary_dilation(mask) & ~mask]
    if not len(rim):
        return np.zeros(len(values))
    counts = np.bincount(rim, minlength=max(values) + 1)
    return np.asarray(counts[list(values)] / len(rim))
