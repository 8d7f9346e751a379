"""The segments of a segmentation as one label map on the grid of a volume, in short steps.

Slicer keeps segments that do not overlap in one image, a layer. A layer on the volume's own grid is copied; any other
is resampled by Slicer (nearest neighbour). Where segments of different layers overlap, the smaller one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import slicer
import vtk

from RAUSlicerLib.exchange import slabs
from RAUSlicerLib.nodes import LABELMAP, ijk_to_ras, image_to_world, same_grid, scalars_of, string_array


class Layer:
    """Some segments in one image. values: label in the image -> label in the label map to be made."""

    def __init__(self, image: Any, values: dict[int, int], shape: tuple[int, ...]) -> None:
        array, extent = scalars_of(image), image.GetExtent()
        self.array = array if array.dtype.kind in "iu" else array.astype(np.int32)
        self.start = (extent[4], extent[2], extent[0])
        self.image, self.shape = image, shape
        top = int(self.array.max(initial=0)) if self.array.size else 0
        self.table = np.zeros(max(top, *values) + 1, np.uint16)
        for old, new in values.items():
            self.table[old] = new

    def slices(self, part: slice) -> np.ndarray:
        """(slices, rows, columns) uint16 of those slices of the volume's grid."""
        found = np.zeros((part.stop - part.start, *self.shape[1:]), np.uint16)
        into, out_of = [], []
        for axis, (low, high) in enumerate(((part.start, part.stop), (0, self.shape[1]), (0, self.shape[2]))):
            begin = max(low, self.start[axis])
            end = min(high, self.start[axis] + self.array.shape[axis])
            if begin >= end:
                return found
            into.append(slice(begin - low, end - low))
            out_of.append(slice(begin - self.start[axis], end - self.start[axis]))
        found[tuple(into)] = self.table[self.array[tuple(out_of)]]
        return found


def layers_of(node: Any, volume: Any, values: Mapping[str, int]) -> Iterator[Layer | None]:
    """The layers that hold the segments of `values` (segment id -> label) on the volume's grid; None: just a step."""
    shape = tuple(reversed(volume.GetImageData().GetDimensions()))
    yield None
    temporary = None
    if not node.GetSegmentation().ContainsRepresentation(LABELMAP):
        node = temporary = rasterised(node, volume)
        yield None
    segmentation = node.GetSegmentation()
    groups: dict[Any, dict[str, int]] = {}
    for segment_id, value in values.items():
        image = segmentation.GetSegment(segment_id).GetRepresentation(LABELMAP)
        if image is not None and image.GetPointData().GetScalars() is not None:
            groups.setdefault(image, {})[segment_id] = value
    aligned = node.GetParentTransformNode() is volume.GetParentTransformNode() or temporary is not None
    for image, members in groups.items():
        if aligned and same_grid(image_to_world(image), ijk_to_ras(volume), shape):
            labels = {segmentation.GetSegment(one).GetLabelValue(): value for one, value in members.items()}
            yield Layer(image, labels, shape)
        else:
            yield Layer(resampled(node, volume, list(members)), dict(enumerate(members.values(), start=1)), shape)


def rasterised(node: Any, volume: Any) -> Any:
    """A copy outside the scene, as label maps on the volume's grid, of a segmentation kept as surfaces or contours."""
    copy = slicer.vtkMRMLSegmentationNode()
    copy.GetSegmentation().DeepCopy(node.GetSegmentation())
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(volume_geometry(volume))
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    copy.GetSegmentation().SetConversionParameter(name, text)
    copy.GetSegmentation().CreateRepresentation(LABELMAP)
    return copy


def volume_geometry(volume: Any) -> Any:
    """The grid of a volume as a vtkOrientedImageData without voxels."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(volume.GetImageData().GetExtent())
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def resampled(node: Any, volume: Any, segment_ids: list[str]) -> Any:
    """Segments 1, 2, ... on the grid of a volume, parent transforms included."""
    values = vtk.vtkIntArray()
    for value in range(1, len(segment_ids) + 1):
        values.InsertNextValue(value)
    image = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        node, volume, string_array(segment_ids), slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, image, values
    )
    return image


class LabelMapOfSegments:
    """Fills an array with labels. After `fill`: counts (voxels by label), overlaps (pairs of labels)."""

    def __init__(self, node: Any, volume: Any, values: Mapping[str, int]) -> None:
        self.node, self.volume, self.values = node, volume, dict(values)
        top = max(self.values.values(), default=0) + 1
        self.counts = np.zeros(top, np.int64)
        self.overlaps: set[tuple[int, int]] = set()

    def fill(self, out: np.ndarray) -> Iterator[None]:
        """Write labels into `out` (S, R, C) uint16, all zero before."""
        layers = []
        for layer in layers_of(self.node, self.volume, self.values):
            if layer is not None:
                layers.append(layer)
            yield
        sizes = self.counts.copy()
        if len(layers) > 1:
            for layer in layers:
                for part in slabs(out.shape, 2):
                    sizes += np.bincount(layer.slices(part).ravel(), minlength=len(sizes))
                    yield
        for layer in layers:
            for part in slabs(out.shape, 2):
                self._put(out, part, layer.slices(part), sizes)
                yield
        for part in slabs(out.shape, 2):
            self.counts += np.bincount(out[part].ravel(), minlength=len(self.counts))
            yield

    def _put(self, out: np.ndarray, part: slice, new: np.ndarray, sizes: np.ndarray) -> None:
        old = out[part]
        both = (old != 0) & (new != 0)
        if both.any():
            pairs = np.unique(np.stack([old[both], new[both]]), axis=1).T
            self.overlaps |= {(int(min(pair)), int(max(pair))) for pair in pairs}
            new = np.where(both & (sizes[old] <= sizes[new]), old, new)
        out[part] = np.where(new != 0, new, old)
