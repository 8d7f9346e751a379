"""*Try it*: one click makes the sample case and fills the panel with it; Sample Data offers the same."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from RAUSlicerLib.context import Context
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.qt_process import QtProcess, later
from RAUSlicerLib.sample_case import SampleCase, SampleMaker, found_in_scene, sample_launch
from RAUSlicerLib.surroundings import surroundings


def home() -> str:
    return str(getattr(slicer.app, "slicerHome", "") or "")


class TryIt:
    def __init__(self, context: Context) -> None:
        self.context, self.button = context, context.ui.tryButton
        self.maker: SampleMaker | None = None
        self.button.connect("clicked(bool)", context.attempt(self.start))

    def start(self) -> None:
        """Raises Problem: no Python that could make the patients."""
        if self.context.logic.busy() or (self.maker is not None and not self.maker.over):
            return
        case = found_in_scene()
        if case is not None:
            self._fill(case)
            return
        launch = sample_launch(self.context.python(), surroundings(), home())
        self.maker = SampleMaker(QtProcess(), later, self._on_end)
        self._say(True)
        self.maker.start(launch)

    def forget(self) -> None:
        """The scene goes, or the panel does."""
        if self.maker is not None:
            self.maker.abandon()
            self._say(False)

    def _say(self, making: bool) -> None:
        self.button.text = _("Making two patients \u2026") if making else _("Try it")
        self.button.enabled = not making

    def _on_end(self, case: SampleCase | None, problem: Problem | None) -> None:
        self._say(False)

        def answer() -> None:
            if problem is not None:
                raise problem
            if case is not None:
                self._fill(case)

        self.context.attempt(answer)()

    def _fill(self, case: SampleCase) -> None:
        """Reference, target and all structures; a new segmentation for the result."""
        node = self.context.node()
        blocked = node.StartModify()
        try:
            node.referenceVolumes = [case.reference.volume]
            node.referenceSegmentations = [case.reference.segmentation]
            node.targetVolume, node.outputSegmentation = case.target, None
            node.excludedStructures, node.useBank = [], False
            node.rightSlices, node.lastRun, node.result = [], "", ""
        finally:
            node.EndModify(blocked)
        show(case.target)
        self.context.update()
        if self.context.ui.segmentButton.enabled:
            lines = (
                _("Patient A carries the reference, patient B is the target: synthetic CT, of nobody."),
                _("Press Segment from reference."),
            )
            self.context.tell("info", _("Two sample patients are loaded"), *lines)


def show(volume: Any) -> None:
    """The volume in all slice views."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volume.GetID())
    logic.PropagateVolumeSelection()


def sample_nodes() -> list[Any]:
    """The nodes of the sample case, made when they are not there; waits with the event loop running. Raises Problem."""
    case, ended, loop = found_in_scene(), [], qt.QEventLoop()
    if case is not None:
        return case.nodes()

    def end(made: SampleCase | None, problem: Problem | None) -> None:
        ended.append((made, problem))
        loop.quit()

    maker = SampleMaker(QtProcess(), later, end)
    maker.start(sample_launch("", surroundings(), home()))
    while not maker.over:
        (getattr(loop, "exec_", None) or loop.exec)()
    made, problem = ended[0]
    if made is None:
        raise problem or Problem(_("The sample patients could not be made"))
    show(made.target)
    return made.nodes()
