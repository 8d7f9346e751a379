"""The case as it is now, corrections included: target and shown segments as files for the worker."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from RAUSlicerLib.exchange import write_array
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import Structure, key_of
from RAUSlicerLib.layers import LabelMapOfSegments
from RAUSlicerLib.marks import RUN_TAG, structure_name
from RAUSlicerLib.nodes import Segment, image_message, pixels_of, segments_of, tag_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message


def shown_segments(node: Any) -> list[Segment]:
    """The segments that are not hidden, each by the name of its structure; of several runs' the latest alone.

    Raises Problem when there is none.
    """
    display = node.GetDisplayNode() if node is not None else None
    every = segments_of(node)
    shown = [one for one in every if display is None or display.GetSegmentVisibility(one.segment_id)]
    if not shown:
        raise Problem(_("No segment of the result is shown"), _("Show those that count in the Segment Editor"))
    segments = {one.segment_id: node.GetSegmentation().GetSegment(one.segment_id) for one in shown}
    named = [replace(one, name=structure_name(segments[one.segment_id])) for one in shown]
    runs = {one.segment_id: tag_of(segments[one.segment_id], RUN_TAG) for one in shown}
    latest = {key_of(one.name): runs[one.segment_id] for one in named if runs[one.segment_id]}
    return [one for one in named if runs[one.segment_id] in ("", latest.get(key_of(one.name), ""))]


def structures_of_segments(segments: Sequence[Segment]) -> tuple[Structure, ...]:
    """One by name, numbered 1, 2, ... in their order."""
    found: dict[str, Structure] = {}
    for one in segments:
        found.setdefault(key_of(one.name), Structure(len(found) + 1, one.name, one.color, one.terminology))
    return tuple(found.values())


def write_segments(
    node: Any, volume: Any, segments: Sequence[Segment], structures: Sequence[Structure], path: Path
) -> Generator[None, None, LabelMapOfSegments]:
    """The label map (S, R, C) uint16 of segments, by the names of structures, in short steps. Raises Problem."""
    values = {key_of(one.name): one.value for one in structures}
    filled = LabelMapOfSegments(node, volume, {one.segment_id: values[key_of(one.name)] for one in segments})
    columns, rows, slices = volume.GetImageData().GetDimensions()
    labels = np.zeros((slices, rows, columns), np.uint16)
    yield from filled.fill(labels)
    yield from write_array(path, labels)
    return filled


@dataclass(frozen=True)
class CorrectedSlices:
    """The shown segments in some slices across `axis` of the target's array, as the user left them."""

    segmentation: Any
    axis: int
    slices: tuple[int, ...]

    def write(
        self, target: Any, structures: Sequence[Structure], folder: Path, name: str
    ) -> Generator[None, None, Message]:
        """Write the label map; the `corrections` of a message. Raises Problem."""
        known = {key_of(one.name) for one in structures}
        segments = [one for one in shown_segments(self.segmentation) if key_of(one.name) in known]
        if not segments:
            hint = _("Give the corrected segments the names of the structures")
            raise Problem(_("None of the shown segments is a structure of the references"), hint)
        yield from write_segments(self.segmentation, target, segments, structures, folder / name)
        told = [one.message() for one in structures]
        return {"labels": {"array": name}, "structures": told, "axis": self.axis, "slices": list(self.slices)}


@dataclass
class CaseInputs:
    """`ErrandInputs`: the target and the shown segments, nothing that names a volume. flat: of the image only its grid,
    as an export wants it. more: further fields of the message."""

    target: Any
    segmentation: Any
    more: Message = field(default_factory=dict)
    flat: bool = False
    _message: Message = field(default_factory=dict)

    def write(self, folder: Path, job: int) -> Iterator[None]:
        segments = shown_segments(self.segmentation)
        structures = structures_of_segments(segments)
        image = {**image_message(self.target, f"job{job}-image.npy"), "source": ""}
        labels = {"array": f"job{job}-labels.npy"}
        if not self.flat:
            yield from write_array(folder / image["array"], pixels_of(self.target))
        yield from write_segments(self.segmentation, self.target, segments, structures, folder / labels["array"])
        told = [one.message() for one in structures]
        if self.flat:
            grid = {"geometry": image["geometry"], "modality": image["modality"]}
            self._message = {**grid, "labels": labels, "structures": told}
        else:
            self._message = {"case": {"image": image, "labels": labels, "structures": told}}

    def message(self) -> Message:
        return {**self._message, **self.more}
