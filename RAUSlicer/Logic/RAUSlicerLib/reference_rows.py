"""The references in the panel: a row for each, with its volume, its segmentation and a button that removes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import qt
import slicer

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes


@dataclass
class Row:
    area: Any
    volume: Any
    segmentation: Any
    remove: Any

    def nodes(self) -> ReferenceNodes:
        return ReferenceNodes(self.volume.currentNode(), self.segmentation.currentNode())


class ReferenceRows:
    """Rows in the layout of `area`. on_change is called when the references change through the user or the scene."""

    def __init__(self, area: Any, on_change: Callable[[], None]) -> None:
        self.area, self.on_change = area, on_change
        self.rows: list[Row] = []
        self._quiet = False

    def references(self) -> list[ReferenceNodes]:
        """The rows that are complete."""
        every = [row.nodes() for row in self.rows]
        return [one for one in every if one.volume is not None and one.segmentation is not None]

    def unfinished(self) -> bool:
        """Whether a row has a volume without a segmentation, or the other way round."""
        return any((row.nodes().volume is None) != (row.nodes().segmentation is None) for row in self.rows)

    def show(self, references: list[ReferenceNodes]) -> None:
        """Rows for these references, and an empty one when there are none."""
        if references and self.references() == references:
            return
        if not references and self.rows and not self.references():
            return
        self._quiet = True
        try:
            while self.rows:
                self._drop(self.rows[-1])
            for one in references or [ReferenceNodes(None, None)]:
                self._add(one)
        finally:
            self._quiet = False

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
        layout = qt.QHBoxLayout(area)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        volume = self._selector(["vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"], _("Volume"))
        volume.toolTip = _("The annotated image")
        segmentation = self._selector(["vtkMRMLSegmentationNode"], _("Its segmentation"))
        segmentation.toolTip = _("The segmentation that was drawn on it")
        remove = qt.QToolButton()
        remove.text = "\u2715"
        remove.toolTip = _("Remove this reference")
        remove.autoRaise = True
        row = Row(area, volume, segmentation, remove)
        for widget, stretch in ((volume, 1), (segmentation, 1), (remove, 0)):
            layout.addWidget(widget, stretch)
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
            self.on_change()


def drawn_on(segmentation: Any) -> Any:
    """The volume that gave a segmentation its grid; None when that is not known."""
    return segmentation.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
