"""The references in the panel: a row for each, with its volume, its segmentation and a button that removes it; below
them a small picture, modality, plane, spacing, and how much it looks like the target, once that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

import qt
import slicer

from RAUSlicerLib.form import row as beside
from RAUSlicerLib.form import small
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes
from RAUSlicerLib.reference_facts import facts, thumbnail

PICTURE = 40  # pixels


@dataclass
class Row:
    area: Any
    volume: Any
    segmentation: Any
    remove: Any
    about: Any  # what lies below: picture and facts
    picture: Any
    facts: Any
    shown: Any = None  # of what picture and facts are

    def nodes(self) -> ReferenceNodes:
        return ReferenceNodes(self.volume.currentNode(), self.segmentation.currentNode())


class ReferenceRows:
    """Rows in the layout of `area`. on_change is called when the references change through the user or the scene."""

    def __init__(self, area: Any, on_change: Callable[[], None]) -> None:
        self.area, self.on_change = area, on_change
        self.rows: list[Row] = []
        self._quiet = False
        self._matches: dict[str, str] = {}

    def references(self) -> list[ReferenceNodes]:
        """The rows that are complete."""
        every = [row.nodes() for row in self.rows]
        return [one for one in every if one.volume is not None and one.segmentation is not None]

    def unfinished(self) -> bool:
        """Whether a row has a volume without a segmentation, or the other way round."""
        return any((row.nodes().volume is None) != (row.nodes().segmentation is None) for row in self.rows)

    def show(self, references: list[ReferenceNodes]) -> None:
        """Rows for these references, and an empty one when there are none."""
        same = self.references() == references
        if self.rows and same:
            self._describe()
            return
        self._quiet = True
        try:
            while self.rows:
                self._drop(self.rows[-1])
            for one in references or [ReferenceNodes(None, None)]:
                self._add(one)
        finally:
            self._quiet = False
        self._describe()

    def show_matches(self, texts: Mapping[str, str]) -> None:
        """By the id of the volume: how much it looks like the target, in words."""
        if dict(texts) != self._matches:
            self._matches = dict(texts)
            self._describe()

    def _describe(self) -> None:
        for row in self.rows:
            nodes = row.nodes()
            volume, segmentation = nodes.volume, nodes.segmentation
            text = facts(volume)
            match = self._matches.get(volume.GetID(), "") if volume is not None else ""
            row.facts.text = " \u00b7 ".join(one for one in (text, match) if one)
            row.about.visible = bool(text)
            shown = (volume, volume.GetMTime(), segmentation, changed(segmentation)) if text else None
            if shown != row.shown:
                row.shown = shown
                pixmap = thumbnail(volume, segmentation, PICTURE) if text else None
                row.picture.setPixmap(pixmap if pixmap is not None else qt.QPixmap())

    def add(self) -> None:
        self._add(ReferenceNodes(None, None))
        self._changed()

    def close(self) -> None:
        while self.rows:
            self._drop(self.rows[-1])

    def enable(self, enabled: bool) -> None:
        self.area.enabled = enabled

    def _add(self, nodes: ReferenceNodes) -> None:
        area = qt.QWidget()
        whole = qt.QVBoxLayout(area)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(3)
        volume = self._selector(["vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"], _("Volume"))
        volume.toolTip = _("The annotated image")
        segmentation = self._selector(["vtkMRMLSegmentationNode"], _("Its segmentation"))
        segmentation.toolTip = _("The segmentation that was drawn on it")
        remove = qt.QToolButton()
        remove.text = "\u2715"
        remove.toolTip = _("Remove this reference")
        remove.autoRaise = True
        picture, told = qt.QLabel(), small("referenceFacts")
        about = beside((picture, 0), (told, 1))
        about.visible = False
        row = Row(area, volume, segmentation, remove, about, picture, told)
        whole.addWidget(beside((volume, 1), (segmentation, 1), (remove, 0)))
        whole.addWidget(about)
        self.area.layout().addWidget(area)
        self.rows.append(row)
        volume.setCurrentNode(nodes.volume)
        segmentation.setCurrentNode(nodes.segmentation)
        volume.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._on_volume(row))
        segmentation.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._on_segmentation(row))
        remove.connect("clicked(bool)", lambda checked=False: self._on_remove(row))
        self._name_rows()

    @staticmethod
    def _selector(node_types: list[str], none: str) -> Any:
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = node_types
        selector.showChildNodeTypes = False
        selector.noneEnabled = True
        selector.noneDisplay = none
        selector.addEnabled = False
        selector.removeEnabled = False
        selector.setMRMLScene(slicer.mrmlScene)
        selector.setMinimumWidth(60)
        selector.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        return selector

    def _drop(self, row: Row) -> None:
        self.rows.remove(row)
        self.area.layout().removeWidget(row.area)
        for selector in (row.volume, row.segmentation):
            selector.blockSignals(True)
            selector.setMRMLScene(None)
        row.area.hide()
        row.area.deleteLater()
        self._name_rows()

    def _name_rows(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            row.volume.name = f"referenceVolume{number}"
            row.segmentation.name = f"referenceSegmentation{number}"
            row.remove.setVisible(len(self.rows) > 1)

    def _on_remove(self, row: Row) -> None:
        if row in self.rows:
            self._drop(row)
            self._changed()

    def _on_volume(self, row: Row) -> None:
        """A segmentation drawn on the volume is the likely one."""
        volume = row.volume.currentNode()
        if not self._quiet and volume is not None and row.segmentation.currentNode() is None:
            drawn = [one for one in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if drawn_on(one) is volume]
            if len(drawn) == 1:
                row.segmentation.setCurrentNode(drawn[0])
        self._changed()

    def _on_segmentation(self, row: Row) -> None:
        """The volume that the segmentation was drawn on is the likely one."""
        segmentation = row.segmentation.currentNode()
        if not self._quiet and segmentation is not None and row.volume.currentNode() is None:
            row.volume.setCurrentNode(drawn_on(segmentation))
        self._changed()

    def _changed(self) -> None:
        if not self._quiet:
            self._describe()
            self.on_change()


def changed(segmentation: Any) -> tuple[int, ...]:
    """When each segment was last changed."""
    inside = segmentation.GetSegmentation() if segmentation is not None else None
    count = inside.GetNumberOfSegments() if inside is not None else 0
    return tuple(inside.GetNthSegment(number).GetMTime() for number in range(count))


def drawn_on(segmentation: Any) -> Any:
    """The volume that gave a segmentation its grid; None when that is not known."""
    return segmentation.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
