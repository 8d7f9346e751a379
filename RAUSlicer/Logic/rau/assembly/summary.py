"""Per structure: found or not, score, box, volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rau.assembly.labels import PlaneVotes
from rau.results import StructureResult
from rau.volume.volume import LabelMap


def summarise(labels: LabelMap, votes: Sequence[PlaneVotes], spacing_known: bool) -> tuple[StructureResult, ...]:
    """One result for each structure of `labels`, measured on the target's own grid."""
    from scipy import ndimage

    voxel_ml = float(np.prod(labels.geometry.spacing)) / 1000
    boxes = ndimage.find_objects(labels.array.astype(np.int32))
    counts = np.bincount(labels.array.ravel(), minlength=max(s.value for s in labels.structures) + 1)
    results = []
    for one in labels.structures:
        voxels = int(counts[one.value])
        if not voxels:
            results.append(StructureResult(one, False))
            continue
        scores = []
        for vote in votes:
            column = vote.values.index(one.value)
            here = vote.presence[:, column] >= 0.5
            scores.extend(vote.iou[here, column].tolist())
        low = [axis.start for axis in boxes[one.value - 1]]
        high = [axis.stop for axis in boxes[one.value - 1]]
        box = (low[0], low[1], low[2], high[0], high[1], high[2])
        volume = voxels * voxel_ml if spacing_known else None
        results.append(StructureResult(one, True, float(np.mean(scores)) if scores else 0.0, box, voxels, volume))
    return tuple(results)
