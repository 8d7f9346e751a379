"""Structures follow what the user does to the segments of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import slicer

from RAUSlicerLib.inputs import ReferenceNodes


class SegmentWatch:
    """on_change is called when a segment of the references is added, removed, renamed or coloured anew."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.on_change = on_change
        self._tags: dict[Any, list[int]] = {}

    def follow(self, references: Sequence[ReferenceNodes]) -> None:
        """Watch these references, and no others."""
        wanted = {one.segmentation.GetSegmentation() for one in references}
        for segmentation in set(self._tags) - wanted:
            for tag in self._tags.pop(segmentation):
                segmentation.RemoveObserver(tag)
        kind = slicer.vtkSegmentation
        for segmentation in wanted - set(self._tags):
            events = (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified)
            self._tags[segmentation] = [segmentation.AddObserver(event, self._changed) for event in events]

    def _changed(self, caller: Any, event: str) -> None:
        self.on_change()
