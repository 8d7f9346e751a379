"""Left and right of a reference: whether what is called left lies to the patient's left of what is called right."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from RAUSlicerLib.inputs import key_of
from RAUSlicerLib.nodes import LABELMAP, Segment, image_to_world, scalars_of, segments_of

CODES = {"7771000": "left", "24028007": "right"}  # SNOMED CT
GRID = 64  # voxels an axis that are looked at


def side_of(segment: Segment) -> str:
    """left, right or empty; by the code, else by the name."""
    for code, side in CODES.items():
        if f"^{code}^" in segment.terminology:
            return side
    found = re.findall(r"(?<![a-z])(left|right)(?![a-z])", key_of(segment.name))
    return found[0] if len(set(found)) == 1 else ""


def without_side(name: str) -> str:
    return " ".join(re.sub(r"(?<![a-z])(left|right)(?![a-z])", " ", key_of(name)).replace("_", " ").split())


def swapped(segmentation_node: Any) -> list[tuple[str, str]]:
    """(left one, right one) by name of each pair that lies the wrong way round in the world of the segmentation."""
    pairs: dict[str, dict[str, Segment]] = {}
    for one in segments_of(segmentation_node):
        if side_of(one):
            pairs.setdefault(without_side(one.name), {})[side_of(one)] = one
    found = []
    for pair in pairs.values():
        places = {side: rightness(segmentation_node, one.segment_id) for side, one in pair.items()}
        left, right = places.get("left"), places.get("right")
        if left is not None and right is not None and left > right:
            found.append((pair["left"].name, pair["right"].name))
    return found


def rightness(segmentation_node: Any, segment_id: str) -> float | None:
    """How far to the patient's right a segment lies, mm, from a coarse grid; None when nothing of it is on that."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    image = segment.GetRepresentation(LABELMAP)
    array = scalars_of(image) if image is not None else np.zeros((0, 0, 0), np.uint8)
    steps = [max(1, n // GRID) for n in array.shape]
    coarse = np.argwhere(array[tuple(slice(None, None, step) for step in steps)] == segment.GetLabelValue())
    if not len(coarse):
        return None
    i0, _i1, j0, _j1, k0, _k1 = image.GetExtent()
    k, j, i = coarse.mean(0) * steps + (k0, j0, i0)
    return float((image_to_world(image) @ (i, j, k, 1.0))[0])
