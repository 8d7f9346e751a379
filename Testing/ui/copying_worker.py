"""The real worker without a model: `python copying_worker.py [FOLDER]`. For tests of what comes before and after.

Its segmentation is the label map of the first reference, laid on the target voxel for voxel (both must have the same
grid), and its trust in it is always the same: the first structure doubtful, the second to be checked, the third not
found, the rest good. With FOLDER, what it was asked is kept there as JSON, without the arrays.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import rau.models.engine
import rau.pipeline
from rau.events import SliceEvent, StageEvent
from rau.references.selection import choose, unify
from rau.results import SegmentResult, SliceResult, StructureResult
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Structure
from rau.worker import process

ASKED: list[Any] = [None]  # the folder
REVIEW = ((11, 0.31), (4, 0.52), (20, 0.66))
LIGHTS = ("red", "amber", "absent")


class Engine:
    """No model: what a bank's search asks of one."""

    name, encoder = "copying", None
    folder = SimpleNamespace(manifest=SimpleNamespace(encoder=None))


@dataclass(frozen=True)
class Copied(SegmentResult):
    def report(self) -> dict[str, Any]:
        told = super().report()
        told["quality"] = quality(self.structures)
        for one in told["structures"]:
            facts: dict[str, Any] = {"voxels": one["voxels"]}
            one["description"] = {"facts": facts, "score": one["score"], "text": f"The {one['name']} as it was copied."}
        return told


def quality(structures: Sequence[StructureResult]) -> dict[str, Any]:
    rows = []
    for number, one in enumerate(structures):
        light = "absent" if not one.present else (*LIGHTS[:2], "green")[min(number, 2)]
        expected = {"red": 0.41, "amber": 0.74, "green": 0.92}.get(light)
        rows.append(
            {
                "value": one.structure.value,
                "name": one.structure.name,
                "light": light,
                "expected_dice": expected,
                "interval": None if expected is None else [round(expected - 0.2, 2), round(expected + 0.05, 2)],
                "broken": ["it lies in 3 pieces, in the reference in one"] if light == "red" else [],
                "evidence": {},
            }
        )
    worst = structures[0].structure.name
    review = [{"index": index, "score": score, "worst": worst} for index, score in REVIEW]
    return {"light": "red", "level": 0.9, "structures": rows, "axis": 0, "slices": review, "review": review}


def copied(structure: Structure, array: np.ndarray, voxel_ml: float) -> StructureResult:
    voxels = int((array == structure.value).sum())
    return StructureResult(structure, voxels > 0, 0.7 if voxels else 0.0, None, voxels, voxels * voxel_ml)


def segment(references: Any, target: Any, settings: SegmentSettings, **told: Any) -> SegmentResult:
    keep(references, target, settings, told)
    structures, arrays = unify(references)
    structures = choose(structures, settings)
    kept = [one.value for index, one in enumerate(structures) if index != 2]
    labels = np.where(np.isin(arrays[0], kept), arrays[0], 0).astype(np.uint16)
    tell = told["on_event"]
    tell(StageEvent("segment"))
    for index, plane in enumerate(labels):
        tell(SliceEvent(index + 1, len(labels), index, 0, plane, 0.7, 1.0))
    voxel_ml = float(np.prod(target.geometry.spacing)) / 1000
    found = tuple(copied(one, labels, voxel_ml) for one in structures)
    slices = tuple(SliceResult(index, 0, 0, index, 1.0) for index in range(len(labels)))
    provenance = {"settings": settings.model_dump(mode="json"), "versions": {"rau": "0", "model": {"name": "copying"}}}
    return Copied(LabelMap(labels, target.geometry, structures), found, slices, ("Copied",), 0.1, provenance)


def keep(references: Any, target: Any, settings: SegmentSettings, told: dict[str, Any]) -> None:
    """What was asked, in the folder."""
    if ASKED[0] is None:
        return
    corrections = told.get("corrections")
    asked: dict[str, Any] = {
        "references": [{"source": one.image.source, "names": [s.name for s in one.structures]} for one in references],
        "target": target.source,
        "settings": settings.model_dump(mode="json"),
        "corrections": None,
    }
    if corrections is not None:
        counts = np.bincount(corrections.labels.array.ravel())
        asked["corrections"] = {
            "axis": corrections.axis,
            "slices": list(corrections.slices),
            "counts": {one.name: int(counts[one.value]) for one in corrections.labels.structures},
        }
    (ASKED[0] / "asked.json").write_text(json.dumps(asked))


if __name__ == "__main__":
    ASKED[0] = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rau.pipeline.segment = segment
    rau.models.engine.load_engine = lambda settings: Engine()  # type: ignore[assignment, return-value]
    process.device = lambda: "cpu"
    sys.exit(process.main())
