"""What a segment tells of its run: status and tags, which are saved with the scene and with the segmentation."""

from __future__ import annotations

import re
from typing import Any

import slicer

from RAUSlicerLib.nodes import tag_of
from RAUSlicerLib.trust import RunResult, StructureTrust

RUN_TAG = "RAU.Run"
NAME_TAG = "RAU.Structure"  # the structure's own name: the segment's may carry a number


def mark(segment: Any, known: StructureTrust, model: str) -> None:
    """The status that the Segment Editor shows, and where the segment comes from, in its tags.

    Completed: nothing speaks against it. In progress: to be checked. Flagged: doubtful.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    status = {"red": logic.Flagged, "amber": logic.InProgress}.get(known.light, logic.Completed)
    logic.SetSegmentStatus(segment, status)
    tags = {"RAU.Model": model, "RAU.Score": f"{known.score:.3f}", "RAU.Trust": known.light}
    if known.expected is not None:
        tags["RAU.ExpectedDice"] = f"{known.expected:.3f}"
    if known.low is not None and known.high is not None:
        tags["RAU.ExpectedDiceInterval"] = f"{known.low:.3f} {known.high:.3f}"
    if known.broken:
        tags["RAU.Odd"] = "; ".join(known.broken)
    for name, value in tags.items():
        segment.SetTag(name, value)


def model_of(result: RunResult) -> str:
    """The name of the model; empty when it is not known."""
    found: Any = result.provenance or {}
    for key in ("versions", "model", "name"):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, str) else ""


def structure_name(segment: Any) -> str:
    """The segment's name, without the number that only keeps it apart from an older one."""
    name, own = str(segment.GetName() or ""), tag_of(segment, NAME_TAG)
    return own if own and re.fullmatch(re.escape(own) + r" \(\d+\)", name) else name
