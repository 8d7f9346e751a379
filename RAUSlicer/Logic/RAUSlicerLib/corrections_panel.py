"""Correct and propagate: slices that the user marks as right, and the run that starts from them."""

from __future__ import annotations

from typing import Any, Callable

from RAUSlicerLib.case_inputs import CorrectedSlices, shown_segments
from RAUSlicerLib.context import Context
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.result_panel import ResultPanel
from RAUSlicerLib.slice_views import shape_of, slice_in_view


class CorrectionsPanel:
    """run: starts a run with the corrected slices. Raises Problem."""

    def __init__(self, context: Context, result: ResultPanel, run: Callable[[CorrectedSlices], None]) -> None:
        self.context, self.ui, self.result, self.run = context, context.ui, result, run
        self.ui.rightButton.connect("clicked(bool)", context.attempt(self.mark))
        self.ui.propagateButton.connect("clicked(bool)", context.attempt(self.propagate))

    def show(self) -> None:
        """Follow the parameter node."""
        slices = self.context.node().rightSlices
        some = ", ".join(str(one) for one in slices[:12]) + (" \u2026" if len(slices) > 12 else "")
        self.ui.rightLabel.text = _("Right: {slices}").format(slices=some) if slices else _("None is marked yet")
        self.ui.propagateButton.enabled = bool(slices) and not self.context.logic.busy()

    def mark(self) -> None:
        """Mark the slice in view as right, or take its mark away."""
        node = self.context.node()
        target, axis = self._target(), self._axis()
        index = slice_in_view(target, axis)
        node.rightSlices = sorted(set(node.rightSlices) ^ {index})

    def propagate(self) -> None:
        """Run again from the slices that are right."""
        node = self.context.node()
        target, axis = self._target(), self._axis()
        slices = tuple(one for one in node.rightSlices if 0 <= one < shape_of(target)[axis])
        if not slices:
            raise Problem(_("No slice is marked as right"), _("Correct some slices and mark each of them"))
        if node.outputSegmentation is None:
            raise Problem(_("The segmentation has left the scene"), _("Run again"))
        shown_segments(node.outputSegmentation)
        self.run(CorrectedSlices(node.outputSegmentation, axis, slices))

    def _target(self) -> Any:
        target = self.context.node().targetVolume
        if target is None or target.GetImageData() is None:
            raise Problem(_("The target volume has left the scene"))
        return target

    def _axis(self) -> int:
        if self.result.result is None:
            raise Problem(_("There is no result to correct"), _("Run again"))
        return self.result.result.axis
