"""The description of what a run has found, in its result."""

from __future__ import annotations

from dataclasses import replace

from rau.description.describing import describe
from rau.results import SegmentResult
from rau.volume.volume import Volume


def with_descriptions(result: SegmentResult, target: Volume) -> SegmentResult:
    """The result with facts and prose of every structure that is present, measured in `target`; voxels as they were."""
    scores = {one.structure.value: one.score for one in result.structures if one.present}
    told = {one.facts.value: one.as_json() for one in describe(target, result.labels, scores, only=scores)}
    structures = tuple(replace(one, description=told.get(one.structure.value)) for one in result.structures)
    return replace(result, structures=structures)
