"""What a run gives back: label map, trust and provenance, and the report that is written from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rau.volume.volume import LabelMap, Structure


@dataclass(frozen=True)
class StructureResult:
    """One requested structure in the target.

    score: mean predicted IoU over its slices, 0 to 1 (0 when absent). box: half-open voxel box in the target's array
    order (slice0, row0, column0, slice1, row1, column1), None when absent. volume_ml: None when the spacing is unknown.
    description: measured facts and prose (`rau.description`), where they were asked for.
    """

    structure: Structure
    present: bool
    score: float = 0.0
    box: tuple[int, int, int, int, int, int] | None = None
    voxels: int = 0
    volume_ml: float | None = None
    description: dict[str, Any] | None = None


@dataclass(frozen=True)
class SliceResult:
    """One slice of the target: index along `axis` of the target's own array, and what was used for it.

    reference: position of the reference in the list given. reference_index: its slice along the matching axis of the
    reference's own array. similarity: cosine of the descriptors. parts: what took part ("memory", "neighbours", ...).
    """

    index: int
    axis: int
    reference: int
    reference_index: int
    similarity: float
    parts: tuple[str, ...] = ()
    milliseconds: float = 0.0


@dataclass(frozen=True)
class SegmentResult:
    """labels: on the target's own grid, voxel for voxel; label values are the reference's.

    reasoning: what the VLM said at its key slices (`rau.vlm.reason.CaseCues.report`); empty where it was not asked.
    quality: how far the result can be trusted (`rau.quality.judge.Quality.report`); empty where it was not judged.
    corrected: pieces that the structural priors took from a structure (`rau.quality.correcting.Move.report`).
    """

    labels: LabelMap
    structures: tuple[StructureResult, ...]
    slices: tuple[SliceResult, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    reasoning: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    corrected: tuple[dict[str, Any], ...] = ()

    @property
    def found(self) -> bool:
        return any(one.present for one in self.structures)

    def report(self) -> dict[str, Any]:
        """The result without its voxels, ready for JSON: what `--report` writes and the worker sends."""
        return {
            "structures": [
                {
                    "value": one.structure.value,
                    "name": one.structure.name,
                    "color": list(one.structure.color),
                    "terminology": one.structure.terminology,
                    "present": one.present,
                    "score": round(one.score, 4),
                    "box": list(one.box) if one.box else None,
                    "voxels": one.voxels,
                    "volume_ml": None if one.volume_ml is None else round(one.volume_ml, 4),
                    "description": one.description,
                }
                for one in self.structures
            ],
            "slices": [
                {
                    "index": one.index,
                    "axis": one.axis,
                    "reference": one.reference,
                    "reference_index": one.reference_index,
                    "similarity": round(one.similarity, 4),
                    "parts": list(one.parts),
                    "milliseconds": round(one.milliseconds, 2),
                }
                for one in self.slices
            ],
            "warnings": list(self.warnings),
            "reasoning": self.reasoning,
            "quality": self.quality,
            "corrected": list(self.corrected),
            "seconds": round(self.seconds, 3),
            "provenance": self.provenance,
        }
