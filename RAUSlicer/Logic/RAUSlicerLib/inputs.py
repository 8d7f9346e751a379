"""Target and references of a run: from nodes to files in the private folder and to the message for the worker."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from RAUSlicerLib.bank_entries import BankChoice, BankEntry, BankStructure
from RAUSlicerLib.exchange import write_array
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.layers import LabelMapOfSegments
from RAUSlicerLib.nodes import Segment, image_message, pixels_of, segments_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message


@dataclass(frozen=True)
class ReferenceNodes:
    """An annotated volume in the scene."""

    volume: Any
    segmentation: Any


@dataclass(frozen=True)
class Structure:
    """A structure by name over all references, with the label value it has in every message of the run."""

    value: int
    name: str
    color: tuple[float, float, float]
    terminology: str

    def message(self) -> Message:
        return {
            "value": self.value,
            "name": self.name,
            "color": [min(1.0, max(0.0, c)) for c in self.color],
            "terminology": self.terminology,
        }


def key_of(name: str) -> str:
    """Names are the same when they differ in case or in space around them only."""
    return name.strip().lower()


def structures_of(references: Sequence[ReferenceNodes], entries: Sequence[BankEntry] = ()) -> tuple[Structure, ...]:
    """The structures of all references by name; color and terminology are those of the first that has it.

    entries: references of a bank, which come after those of the scene.
    """
    found: dict[str, Structure] = {}
    several: list[Segment | BankStructure] = []
    for reference in references:
        several += segments_of(reference.segmentation)
    for entry in entries:
        several += entry.structures
    for one in several:
        found.setdefault(key_of(one.name), Structure(len(found) + 1, one.name, one.color, one.terminology))
    return tuple(found.values())


@dataclass
class SceneInputs:
    """`Inputs` of a run. settings: fields of the engine's SegmentSettings, structures among them.

    The names of the volumes, which are often a patient's, do not go to the worker: its messages say "The target".
    structures: of all references, also those that the bank may give. corrections: `case_inputs.CorrectedSlices`.
    """

    target: Any
    references: Sequence[ReferenceNodes]
    structures: Sequence[Structure]
    settings: dict[str, Any]
    bank: BankChoice | None = None
    corrections: Any = None
    _message: Message = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def write(self, folder: Path, job: int) -> Iterator[None]:
        name = f"job{job}-target.npy"
        target = {**image_message(self.target, name), "source": _("The target")}
        yield from write_array(folder / name, pixels_of(self.target))
        references = []
        for number, nodes in enumerate(self.references, start=1):
            message = yield from self._reference(folder, f"job{job}-reference{number}", nodes)
            message["image"]["source"] = _("Reference {n}").format(n=number)
            references.append(message)
        self._message = {"target": target, "references": references, "settings": self.settings}
        if self.bank is not None:
            numbers = {one.name: one.value for one in self.structures}
            self._message.update(bank=self.bank.folder, bank_ids=list(self.bank.ids), numbers=numbers)

        if self.corrections is not None:
            written = self.corrections.write(self.target, self.structures, folder, f"job{job}-corrections.npy")
            self._message["corrections"] = yield from written

    def message(self) -> Message:
        return self._message

    def notes(self) -> Sequence[str]:
        return self._notes

    def _reference(self, folder: Path, stem: str, nodes: ReferenceNodes) -> Generator[None, None, Message]:
        image = image_message(nodes.volume, stem + ".npy")
        yield from write_array(folder / image["array"], pixels_of(nodes.volume))
        for name in duplicates(segments_of(nodes.segmentation)):
            self._notes.append(_("Segments of the reference with the name {a} count as one").format(a=name))
        by_key = {key_of(one.name): one for one in self.structures}
        values = {one.segment_id: by_key[key_of(one.name)].value for one in segments_of(nodes.segmentation)}
        labels = np.zeros(image["geometry"]["shape"], np.uint16)
        filled = LabelMapOfSegments(nodes.segmentation, nodes.volume, values)
        yield from filled.fill(labels)
        if not filled.counts[1:].any():
            raise Problem(
                _("The segmentation {seg} has no voxels inside the volume {vol}").format(
                    seg=nodes.segmentation.GetName(), vol=nodes.volume.GetName()
                ),
                _("Pick the volume that it was drawn on"),
            )
        yield from write_array(folder / f"{stem}-labels.npy", labels)
        self._tell_overlaps(filled)
        present = {value for value in values.values() if filled.counts[value]}
        return {
            "image": image,
            "labels": {"array": f"{stem}-labels.npy"},
            "structures": [one.message() for one in self.structures if one.value in present],
        }

    def _tell_overlaps(self, filled: LabelMapOfSegments) -> None:
        names = {one.value: one.name for one in self.structures}
        for first, second in sorted(filled.overlaps):
            text = _("{a} and {b} overlap in the reference: there the smaller one counts")
            self._notes.append(text.format(a=names[first], b=names[second]))


def duplicates(segments: Sequence[Segment]) -> list[str]:
    """Names that more than one segment of a segmentation has."""
    seen: set[str] = set()
    twice = []
    for one in segments:
        if key_of(one.name) in seen:
            twice.append(one.name)
        seen.add(key_of(one.name))
    return twice
