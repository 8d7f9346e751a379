"""Another target takes another output: a result is not written into the segmentation of the patient before."""

from __future__ import annotations

from typing import Any, Callable

from RAUSlicerLib.qt_process import later
from RAUSlicerLib.reference_rows import drawn_on


class OutputChoice:
    """node: gives the parameter node, None while there is none."""

    def __init__(self, ui: Any, node: Callable[[], Any]) -> None:
        self.node, self._before = node, ""
        ui.targetSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_target)

    def _on_target(self, target: Any) -> None:
        """Looked at afterwards: the parameter node may hear of the new target later than this."""
        before = self._before
        if target is not None:
            self._before = target.GetID()
            later(0.0, lambda: self._follow(before))

    def _follow(self, before: str) -> None:
        node = self.node()
        output = node.outputSegmentation if node is not None else None
        drawn = drawn_on(output) if output is not None else None
        if drawn is not None and drawn is not node.targetVolume and drawn.GetID() == before:
            node.outputSegmentation = None
