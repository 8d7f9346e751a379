"""MRML volumes and segmentations as the engine sees them: arrays (slice, row, column), LPS millimetres.

Slicer's world is RAS: x and y change sign on the way. Arrays of slicer.util are (K, J, I), which is (slice, row,
column).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message

LABELMAP, SURFACE = "Binary labelmap", "Closed surface"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MODALITIES = {"CT": "CT", "MR": "MR", "US": "US", "CR": "XR", "DX": "XR", "MG": "XR", "XA": "XR", "RF": "XR"}


@dataclass(frozen=True)
class Segment:
    """A segment as the panel lists it. color: RGB, 0 to 1. terminology: Slicer's serialised entry, or empty."""

    segment_id: str
    name: str
    color: tuple[float, float, float]
    terminology: str


def matrix_of(source: Any) -> np.ndarray:
    """(4, 4) from a vtkMatrix4x4."""
    return np.array([[source.GetElement(i, j) for j in range(4)] for i in range(4)])


def ijk_to_ras(volume: Any) -> np.ndarray:
    """(4, 4) of a volume node, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix_of(matrix)


def ijk_to_world(volume: Any) -> np.ndarray:
    """(4, 4) of a volume node with its linear parent transform. Raises Problem when the transform is not linear."""
    parent = volume.GetParentTransformNode()
    if parent is None:
        return ijk_to_ras(volume)
    matrix = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear() or not parent.GetMatrixTransformToWorld(matrix):
        raise Problem(
            _("{name} lies under a transform that is not linear").format(name=volume.GetName()),
            _("Harden the transform in the Transforms module"),
        )
    return matrix_of(matrix) @ ijk_to_ras(volume)


def geometry_message(to_ras: np.ndarray, shape: tuple[int, ...]) -> Message:
    """The engine's geometry of an IJK to RAS matrix: spacing and direction in array order, origin in LPS."""
    lps = RAS_TO_LPS @ to_ras
    columns = lps[:3, [2, 1, 0]]
    spacing = np.linalg.norm(columns, axis=0)
    return {
        "shape": [int(n) for n in shape[:3]],
        "spacing": spacing.tolist(),
        "origin": lps[:3, 3].tolist(),
        "direction": (columns / spacing).tolist(),
    }


def pixels_of(volume: Any) -> np.ndarray:
    """The voxels of a volume node as the engine takes them: (S, R, C), or (S, R, C, 3) for colour. Raises Problem."""
    image = volume.GetImageData() if volume is not None else None
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        name = volume.GetName() if volume is not None else "?"
        raise Problem(_("The volume {name} has no voxels").format(name=name), _("Pick another volume"))
    array = slicer.util.arrayFromVolume(volume)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 4 and (array.shape[3] not in (3, 4) or array.dtype != np.uint8):
        raise Problem(
            _("The volume {name} has several values a voxel and is no color picture").format(name=volume.GetName()),
            _("Extract one component in the Vector to Scalar Volume module"),
        )
    return array[..., :3] if array.ndim == 4 else array


def modality_of(volume: Any) -> str:
    """The engine's word for it, from the subject hierarchy or the voxel units; empty when unknown."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(volume) if tree else 0
    found = (
        (tree.GetItemAttribute(item, "DICOM.Modality") if item else "") or volume.GetAttribute("DICOM.Modality") or ""
    )
    units = volume.GetVoxelValueUnits()
    if not found and units is not None and "hnsf" in (units.GetCodeValue() or ""):
        return "CT"
    return MODALITIES.get(found.upper(), "OT" if found else "")


def image_message(volume: Any, file_name: str) -> Message:
    """An IMAGE of the protocol. Raises Problem."""
    array = pixels_of(volume)
    return {
        "array": file_name,
        "geometry": geometry_message(ijk_to_world(volume), array.shape),
        "modality": modality_of(volume),
        "source": (volume.GetName() or "")[:500],
        "spacing_known": array.ndim == 3,
    }


def segments_of(segmentation_node: Any) -> list[Segment]:
    """The segments of a segmentation node in its order."""
    if segmentation_node is None or segmentation_node.GetSegmentation() is None:
        return []
    segmentation = segmentation_node.GetSegmentation()
    found = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(index)
        segment = segmentation.GetSegment(segment_id)
        red, green, blue = (float(c) for c in segment.GetColor())
        color = (red, green, blue)
        found.append(Segment(segment_id, segment.GetName() or segment_id, color, terminology_of(segment)))
    return found


def terminology_of(segment: Any) -> str:
    """Slicer's serialised terminology entry, exactly as the segment carries it."""
    return tag_of(segment, slicer.vtkSegment.GetTerminologyEntryTagName())


def tag_of(segment: Any, name: str) -> str:
    """The value of a tag; empty when there is none."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def same_grid(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two IJK to RAS matrices put the corners of a grid within 0.01 mm of each other."""
    far = np.array([[i, j, k, 1.0] for i in (0, shape[2]) for j in (0, shape[1]) for k in (0, shape[0])])
    return bool(np.abs(far @ (first - second).T).max() < 0.01)


def image_to_world(image: Any) -> np.ndarray:
    """(4, 4) IJK to RAS of a vtkOrientedImageData."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return matrix_of(matrix)


def scalars_of(image: Any) -> np.ndarray:
    """The voxels of a vtkOrientedImageData (K, J, I) of its own extent, without a copy; empty when it has none."""
    scalars = image.GetPointData().GetScalars()
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    shape = (k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    if scalars is None or min(shape) < 1:
        return np.zeros((0, 0, 0), np.uint8)
    return vtk_to_numpy(scalars).reshape(shape)


def string_array(texts: list[str]) -> Any:
    array = vtk.vtkStringArray()
    for text in texts:
        array.InsertNextValue(text)
    return array
