"""What is shown of a reference of the scene: a small picture of its middle slice, modality, plane and spacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import qt

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.nodes import LABELMAP, ijk_to_ras, image_to_world, modality_of, pixels_of, same_grid, scalars_of
from RAUSlicerLib.problems import Problem

OBLIQUE = 0.95  # cosine to the nearest axis of the body, as the engine has it
ALIKE = 1.3  # spacings within this ratio are alike
FILL = 0.5  # share of a segment's color in the picture


def facts(volume: Any) -> str:
    """Modality, plane and spacing in a line; what is not known is left out."""
    if volume is None or volume.GetImageData() is None:
        return ""
    parts = [modality_of(volume), plane_word(volume), spacing_text(volume)]
    return " \u00b7 ".join(part for part in parts if part)


def spacing_text(volume: Any) -> str:
    """(slice, row, column), mm."""
    columns, rows, slices = volume.GetSpacing()
    return " \u00d7 ".join(f"{s:.3g}" for s in (slices, rows, columns)) + " mm"


def slice_axis(volume: Any) -> int:
    """The axis of the array (slice, row, column) across which the volume was cut: the one of the largest spacing; where
    all are alike, the first."""
    spacing = volume.GetSpacing()[::-1]
    return 0 if max(spacing) < ALIKE * min(spacing) else int(np.argmax(spacing))


def plane_word(volume: Any) -> str:
    """The plane in which the slices lie."""
    column = ijk_to_ras(volume)[:3, 2 - slice_axis(volume)]
    normal = np.abs(column) / np.linalg.norm(column)
    words = (_("sagittal"), _("coronal"), _("axial"))  # by the axis of RAS
    return words[int(normal.argmax())] if normal.max() >= OBLIQUE else _("oblique")


def plane_text(plane: str) -> str:
    """The engine's word for a plane as the panel says it."""
    words = {"axial": _("axial"), "coronal": _("coronal"), "sagittal": _("sagittal"), "oblique": _("oblique")}
    return words.get(plane, "")


def thumbnail(volume: Any, segmentation: Any, size: int) -> Any:
    """A QPixmap of at most size x size: the middle slice of the segments, in their colors where they share its grid.

    None when the volume has no voxels, or they are no image.
    """
    try:
        array = pixels_of(volume)
    except Problem:
        return None
    axis, layers = slice_axis(volume), _layers(segmentation, volume)
    index = _middle(layers, axis, array.shape[axis])
    plane = np.take(array, index, axis)
    colored = _windowed(plane)
    for mask, color in layers:
        inside = mask(axis, index)
        if inside is not None:
            colored[inside] = (1 - FILL) * colored[inside] + FILL * 255 * np.array(color)
    return _pixmap(_upright(colored, volume, axis), _aspect(volume, axis), size)


def _windowed(plane: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) float, 0 to 255, from the 1st to the 99th percentile."""
    grey = np.asarray(plane, float)
    if grey.ndim == 3:
        return grey.copy()
    low, high = np.percentile(grey, (1, 99))
    scaled = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(scaled[..., None], 3, axis=-1)


def _layers(segmentation: Any, volume: Any) -> list[tuple[Any, tuple[float, float, float]]]:
    """For each segment a function (axis, index) to the mask of that slice, and its color."""
    if segmentation is None or segmentation.GetSegmentation() is None:
        return []
    columns, rows, slices = volume.GetImageData().GetDimensions()
    shape, own, found = (slices, rows, columns), ijk_to_ras(volume), []
    for number in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        segment = segmentation.GetSegmentation().GetNthSegment(number)
        image = segment.GetRepresentation(LABELMAP)
        if image is not None and same_grid(image_to_world(image), own, shape):
            found.append((_Layer(image, int(segment.GetLabelValue()), shape), tuple(segment.GetColor())))
    return found


class _Layer:
    """The voxels of a segment, a slice at a time, on the grid of the volume."""

    def __init__(self, image: Any, value: int, shape: tuple[int, int, int]) -> None:
        i0, i1, j0, j1, k0, k1 = image.GetExtent()
        self.array, self.value, self.shape = scalars_of(image), value, shape
        self.first, self.last = (k0, j0, i0), (k1, j1, i1)

    def __call__(self, axis: int, index: int) -> np.ndarray | None:
        if not self.array.size or not self.first[axis] <= index <= self.last[axis]:
            return None
        mask = np.zeros(self.shape[:axis] + self.shape[axis + 1 :], bool)
        rest = [a for a in range(3) if a != axis]
        starts = [max(0, self.first[a]) for a in rest]
        ends = [min(self.shape[a], self.last[a] + 1) for a in rest]
        there = np.take(self.array, index - self.first[axis], axis) == self.value
        cut = tuple(slice(s - self.first[a], e - self.first[a]) for s, e, a in zip(starts, ends, rest))
        mask[starts[0] : ends[0], starts[1] : ends[1]] = there[cut]
        return mask


def _middle(layers: list[Any], axis: int, count: int) -> int:
    """The middle of what the segments span, else of the volume."""
    spans = [(layer.first[axis], layer.last[axis]) for layer, _color in layers if layer.array.size]
    if not spans:
        return count // 2
    return min(count - 1, max(0, (min(s for s, _e in spans) + max(e for _s, e in spans)) // 2))


def _upright(picture: np.ndarray, volume: Any, axis: int) -> np.ndarray:
    """As one looks at it: the patient's front or head up, the patient's right on the left."""
    to_ras = ijk_to_ras(volume)[:3, :3]
    for place, array_axis in enumerate(a for a in range(3) if a != axis):
        way = to_ras[:, 2 - array_axis]
        if way[int(np.abs(way).argmax())] > 0:  # arrays should run to the left, to the back, to the feet
            picture = np.flip(picture, place)
    return picture


def _aspect(volume: Any, axis: int) -> float:
    """Height of a pixel over its width."""
    spacing = [s for a, s in enumerate(volume.GetSpacing()[::-1]) if a != axis]
    return float(spacing[0] / spacing[1])


def _pixmap(picture: np.ndarray, aspect: float, size: int) -> Any:
    rows, columns = picture.shape[:2]
    scale = size / max(rows * aspect, columns)
    height, width = max(1, round(rows * aspect * scale)), max(1, round(columns * scale))
    at_rows = np.minimum(((np.arange(height) + 0.5) * rows / height).astype(int), rows - 1)
    at_columns = np.minimum(((np.arange(width) + 0.5) * columns / width).astype(int), columns - 1)
    small = np.ascontiguousarray(picture[at_rows][:, at_columns].astype(np.uint8))
    header = f"P6 {width} {height} 255\n".encode()  # a picture file in memory: reads alike in PythonQt and PySide
    pixmap = qt.QPixmap()
    pixmap.loadFromData(qt.QByteArray(header + small.tobytes()), "PPM")
    return pixmap
