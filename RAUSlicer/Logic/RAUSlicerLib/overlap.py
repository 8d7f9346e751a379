"""Where the user's own segments lie, for a result that leaves their voxels out. They are never changed either way."""

from __future__ import annotations

from typing import Any

import numpy as np

from RAUSlicerLib.marks import RUN_TAG
from RAUSlicerLib.nodes import LABELMAP, scalars_of, tag_of


def covered(segmentation_node: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """(S, R, C) bool on the target's grid: voxels of shown segments that no run has made.

    The segments lie on that grid (`preflight.check_output`), each perhaps on a part of it.
    """
    found = np.zeros(shape, bool)
    segmentation, display = segmentation_node.GetSegmentation(), segmentation_node.GetDisplayNode()
    for number in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(number)
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(LABELMAP)
        hidden = display is not None and not display.GetSegmentVisibility(segment_id)
        if image is None or hidden or tag_of(segment, RUN_TAG):
            continue
        array, (i0, i1, j0, j1, k0, k1) = scalars_of(image), image.GetExtent()
        if not array.size:
            continue
        firsts, lasts = (k0, j0, i0), (k1, j1, i1)
        inside = tuple(slice(max(0, f), min(n, e + 1)) for f, e, n in zip(firsts, lasts, shape))
        own = tuple(slice(part.start - f, max(part.start, part.stop) - f) for part, f in zip(inside, firsts))
        found[inside] |= array[own] == segment.GetLabelValue()
    return found
