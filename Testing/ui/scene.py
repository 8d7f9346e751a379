"""What the tests of the panel put into the scene and read from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Segment:
    name: str
    color: tuple[float, ...]
    terminology: str
    voxels: str  # hash of the mask on the segmentation's own grid
    count: int


def volume_node(volume: Any, name: str) -> Any:
    """A volume of the engine as a node."""
    node = slicer.util.addVolumeFromArray(volume.array, name=name)
    affine = LPS_TO_RAS @ volume.geometry.affine
    matrix = vtk.vtkMatrix4x4()
    for i in range(4):
        for j, source in enumerate((2, 1, 0, 3)):
            matrix.SetElement(i, j, affine[i, source])
    node.SetIJKToRASMatrix(matrix)
    node.CreateDefaultDisplayNodes()
    node.SetAttribute("DICOM.Modality", volume.modality or None)
    return node


def segmentation_node(labels: Any, volume: Any, name: str) -> Any:
    """A label map of the engine as a segmentation of that volume node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for one in labels.structures:
        add_segment(node, volume, one.name, labels.array == one.value, one.color, one.terminology)
    return node


def add_segment(
    node: Any, volume: Any, name: str, mask: np.ndarray, color: tuple[float, ...] = (1.0, 0.0, 0.0), code: str = ""
) -> str:
    segment_id = node.GetSegmentation().AddEmptySegment("", name, list(color))
    if code:
        segment = node.GetSegmentation().GetSegment(segment_id)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), code)
    if mask.any():
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, volume)
    return str(segment_id)


def mask_of(node: Any, segment_id: str, volume: Any) -> np.ndarray:
    """(S, R, C) bool on the grid of a volume, by Slicer's own export; leaves no node behind (as slicer.util does)."""
    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    image = slicer.vtkOrientedImageData()
    whole = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.GenerateMergedLabelmapInReferenceGeometry(node, volume, ids, whole, image)
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions()[::-1]) != 0


def segments(node: Any, volume: Any) -> list[Segment]:
    """All segments of a node, in order, with what must survive."""
    found = []
    for index in range(node.GetSegmentation().GetNumberOfSegments()):
        segment = node.GetSegmentation().GetNthSegment(index)
        code = vtk.reference("")
        segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), code)
        mask = mask_of(node, node.GetSegmentation().GetNthSegmentID(index), volume)
        color = tuple(round(float(c), 3) for c in segment.GetColor())
        digest = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
        found.append(Segment(segment.GetName(), color, str(code), digest, int(mask.sum())))
    return found


def snapshot(volume: Any) -> Any:
    """The scene as far as a user could tell: nodes, their names, and every segment of every segmentation."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    names = {n.GetID(): (n.GetClassName(), n.GetName() or "") for n in nodes}
    every = [n for n in nodes if n.IsA("vtkMRMLSegmentationNode")]
    return names, {n.GetID(): segments(n, volume) for n in every}


def difference(before: Any, after: Any) -> str:
    """What differs between two snapshots; empty when nothing does."""
    found = []
    for old, new in zip(before, after):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                found.append(f"{key}: {old.get(key)} -> {new.get(key)}")
    return "; ".join(found)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))
