"""A small abdomen of ellipsoids, as nodes in the scene: for the self test and to try the panel without own data."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

# name, color, terminology, centre and half axes as fractions of the grid (slice, row, column), intensity
ORGANS: tuple[tuple[str, tuple[float, float, float], str, tuple[float, ...], float], ...] = (
    (
        "liver",
        (0.867, 0.510, 0.396),
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
        "~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^",
        (0.52, 0.45, 0.36, 0.34, 0.24, 0.19),
        110.0,
    ),
    (
        "spleen",
        (0.616, 0.424, 0.635),
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
        "~SCT^78961009^Spleen~^^~Anatomic codes - DICOM master list~^^~^^",
        (0.50, 0.56, 0.74, 0.26, 0.15, 0.09),
        150.0,
    ),
    (
        "kidney",
        (0.725, 0.400, 0.325),
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
        "~SCT^64033007^Kidney~^^~Anatomic codes - DICOM master list~^^~^^",
        (0.40, 0.72, 0.60, 0.22, 0.09, 0.07),
        190.0,
    ),
)


def phantom(
    name: str, seed: int = 0, shape: tuple[int, int, int] = (24, 96, 96), annotated: bool = True, organs: int = 3
) -> tuple[Any, Any]:
    """(volume node, segmentation node or None): subject `seed`, with its first `organs` organs."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    inside = sum(((grid[a] - 0.5) / half) ** 2 for a, half in enumerate((9.0, 0.38, 0.44))) < 1
    image, masks = np.where(inside, 40.0, -400.0), []
    for _name, _color, _code, place, intensity in ORGANS[:organs]:
        centre = np.array(place[:3]) + rng.uniform(-0.025, 0.025, 3)
        half = np.array(place[3:]) * rng.uniform(0.92, 1.08, 3)
        mask = sum(((grid[a] - centre[a]) / half[a]) ** 2 for a in range(3)) < 1
        image[mask] = intensity
        masks.append(mask)
    image += rng.normal(0.0, 12.0, shape)
    volume = slicer.util.addVolumeFromArray(image.astype(np.int16), name=name)
    volume.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    volume.SetSpacing(3.0, 3.0, 5.0)
    volume.SetOrigin(140.0, 140.0, -60.0)
    volume.CreateDefaultDisplayNodes()
    return volume, _segmentation(volume, name, masks) if annotated else None


def _segmentation(volume: Any, name: str, masks: list[np.ndarray]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for (organ, color, code, _place, _intensity), mask in zip(ORGANS, masks):
        segment_id = node.GetSegmentation().AddEmptySegment(organ, organ, list(color))
        segment = node.GetSegmentation().GetSegment(segment_id)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), code)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, volume)
    return node
