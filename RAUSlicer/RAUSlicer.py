"""RAUSlicer: segment a volume from annotated reference volumes. Module, parameter node, panel, logic, self test."""

import os
import sys
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_LOGIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Logic")
if _LOGIC not in sys.path:
    sys.path.insert(0, _LOGIC)

from RAUSlicerLib import sample_data, settings, shortcuts, wording  # noqa: E402
from RAUSlicerLib.bank_panel import BankPanel  # noqa: E402
from RAUSlicerLib.choice_boxes import ChoiceBoxes  # noqa: E402
from RAUSlicerLib.context import Context  # noqa: E402
from RAUSlicerLib.corrections_panel import CorrectionsPanel  # noqa: E402
from RAUSlicerLib.environment_box import EnvironmentBox  # noqa: E402
from RAUSlicerLib.inputs import ReferenceNodes, structures_of  # noqa: E402
from RAUSlicerLib.keep_panel import KeepPanel  # noqa: E402
from RAUSlicerLib.match_panel import MatchPanel  # noqa: E402
from RAUSlicerLib.message_area import MessageArea  # noqa: E402
from RAUSlicerLib.output_choice import OutputChoice  # noqa: E402
from RAUSlicerLib.preflight_box import PreflightBox  # noqa: E402
from RAUSlicerLib.problems import Problem  # noqa: E402
from RAUSlicerLib.qt_process import later  # noqa: E402
from RAUSlicerLib.readiness import Readiness  # noqa: E402
from RAUSlicerLib.reference_rows import ReferenceRows  # noqa: E402
from RAUSlicerLib.remote_box import RemoteBox  # noqa: E402
from RAUSlicerLib.result_panel import ResultPanel  # noqa: E402
from RAUSlicerLib.run_view import RunView  # noqa: E402
from RAUSlicerLib.segment_watch import SegmentWatch  # noqa: E402
from RAUSlicerLib.session import Session  # noqa: E402
from RAUSlicerLib.structure_list import StructureList  # noqa: E402
from RAUSlicerLib.try_it import TryIt, sample_nodes  # noqa: E402

PYTHON_SETTING = "RAUSlicer/Python"


class RAUSlicer(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("RAUSlicer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["The RAUSlicer developers"]
        parent.helpText = _(
            "Segments a volume from one or several reference volumes that carry a segmentation already. "
            "For CT, MR, ultrasound, X-ray and pictures; target and reference should be of the same kind. "
            "Everything runs on this computer. For research, not for clinical use."
        )
        parent.helpText += "<p>" + "<br>".join([_("Keyboard shortcuts:"), *shortcuts.listed()]) + "</p>"
        parent.acknowledgementText = _("SAM2 (Meta), DINOv2 (Meta), after RAU and RCMed.")
        icons = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Resources", "Icons")
        slicer.app.connect("startupCompleted()", lambda: sample_data.register(icons))


@parameterNodeWrapper
class RAUSlicerParameterNode:
    """The state of the panel; saved with the scene.

    referenceVolumes and referenceSegmentations go together by their place. excludedStructures: names that are not
    checked. prompt: which of the checked are wanted. keepClear: the result leaves out the user's own segments. lastRun:
    which segments the undo removes. result: what is known of that run (`RAUSlicerLib.trust.RunResult`, as JSON).
    useBank, bankIds: references that come from the bank in bankFolder; without ids the bank chooses. rightSlices: those
    that the user has put right. The rest: fields of `rau.settings.SegmentSettings`.
    """

    referenceVolumes: list[vtkMRMLScalarVolumeNode]
    referenceSegmentations: list[vtkMRMLSegmentationNode]
    targetVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    excludedStructures: list[str]
    prompt: str = ""
    model: str = "auto"
    modelFolder: str = ""
    device: str = "auto"
    planes: str = "auto"
    referencesPerSlice: Annotated[int, WithinRange(1, 7)] = 3
    keepLoaded: bool = True
    keepClear: bool = False
    lastRun: str = ""
    result: str = ""
    bankFolder: str = ""
    useBank: bool = False
    bankIds: list[str]
    rightSlices: list[int]


class RAUSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self._updating = False
        self._updateAsked = False
        self._entered = False

    # -- life cycle
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/RAUSlicer.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = RAUSlicerLogic()
        self.references = ReferenceRows(self.ui.referencesArea, self._onReferences)
        self.watch = SegmentWatch(self._askUpdate)
        self.structures = StructureList(self.ui.structuresTree, self._onStructures)
        self.message = MessageArea(self.ui.messageFrame, self.ui.messageSign, self.ui.messageLabel)
        self.environment = EnvironmentBox(self.ui.environmentSection, self.logic.client.stop, self._askUpdate)
        self.remote = RemoteBox(self.ui.remoteSection, self._onRemote)
        self.view = RunView(self.ui, self.references)
        self.context = Context(
            self.ui,
            self.logic,
            self.message,
            lambda: self._parameterNode,
            self._update,
            lambda: self.ui.pythonEdit.currentPath,
            self.view.show_errand,
            self.view.show_idle,
        )
        self.tryIt = TryIt(self.context)
        self.result = ResultPanel(self.context)
        self.bank = BankPanel(self.context, self._askUpdate)
        self.match = MatchPanel(self.context, self.references, self.bank)
        self.keep = KeepPanel(self.context, self.result, self.bank)
        self.corrections = CorrectionsPanel(self.context, self.result, self._start)
        boxes = (self.references, self.structures, self.bank, PreflightBox(self.ui.preflightSection), self.remote)
        self.readiness = Readiness(self.context, self._chosen, *boxes)
        self.view.show_idle()
        self.view.show_worker("stopped")
        self.logic.client.on_state = lambda state: self.view.show_worker(state, self.logic.client.ready)
        self.choices = ChoiceBoxes(self.ui, lambda: self._parameterNode)
        self.output = OutputChoice(self.ui, lambda: self._parameterNode)
        self.ui.pythonEdit.currentPath = slicer.app.userSettings().value(PYTHON_SETTING, "") or ""
        self._connect()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        slicer.app.connect("aboutToQuit()", self._onQuit)
        self.initializeParameterNode()

    def _connect(self):
        for name, function in (
            ("addReferenceButton", self.references.add),
            ("allButton", lambda: self.structures.check_all(True)),
            ("noneButton", lambda: self.structures.check_all(False)),
            ("segmentButton", self.onSegmentButton),
            ("releaseButton", self.onReleaseButton),
        ):
            getattr(self.ui, name).connect("clicked(bool)", lambda checked=False, f=function: f())
        self.ui.pythonEdit.connect("currentPathChanged(QString)", self._onPython)
        for name in ("next", "right", "propagate", "accept"):
            widget = getattr(self.ui, f"{name}Button")
            widget.toolTip = shortcuts.tip(widget.toolTip, name)
        self.shortcuts = shortcuts.Shortcuts(
            self.parent,
            {
                "run": lambda: self.logic.busy() or self.ui.segmentButton.click(),
                "cancel": self.logic.cancel,
                "next": self.result.next_slice,
                "right": self.ui.rightButton.click,
                "propagate": self.ui.propagateButton.click,
                "accept": self.ui.acceptButton.click,
            },
        )

    def cleanup(self):
        slicer.app.disconnect("aboutToQuit()", self._onQuit)
        self.shortcuts.close()
        self.tryIt.forget()
        self.logic.close()
        self.environment.close()
        self.remote.close()
        self.setParameterNode(None)
        self.references.close()
        self.watch.follow([])
        self.removeObservers()

    def enter(self):
        self._entered = True
        self.initializeParameterNode()

    def exit(self):
        self._entered = False

    def onSceneStartClose(self, caller, event):
        self.logic.abandon()
        self.tryIt.forget()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        self.message.show(None)
        self.view.show_idle()
        self.bank.forget()
        self.match.forget()
        if self._entered:
            self.initializeParameterNode()

    def _onQuit(self):
        self.tryIt.forget()
        self.logic.close()
        self.environment.close()
        self.remote.close()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._askUpdate)
        self._parameterNode = node
        if node is not None:
            self.bank.start()
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._askUpdate)
            self._update()

    # -- from the panel to the parameter node
    def _onReferences(self):
        if self._parameterNode is None:
            return
        chosen = self.references.references()
        blocked = self._parameterNode.StartModify()
        try:
            self._parameterNode.referenceVolumes = [one.volume for one in chosen]
            self._parameterNode.referenceSegmentations = [one.segmentation for one in chosen]
        finally:
            self._parameterNode.EndModify(blocked)
        self._askUpdate()

    def _onStructures(self):
        if self._parameterNode is not None:
            self._parameterNode.excludedStructures = self.structures.excluded()
            self._askUpdate()

    def _onRemote(self):
        self.logic.remote = self.remote.launch if self.remote.on else None
        self._askUpdate()

    def _onPython(self, path):
        slicer.app.userSettings().setValue(PYTHON_SETTING, path)
        self._askUpdate()

    # -- from the parameter node to the panel
    def _askUpdate(self, caller=None, event=None):
        """One update for many changes."""
        if not self._updateAsked:
            self._updateAsked = True
            later(0.0, self._update)

    def _update(self):
        self._updateAsked = False
        if self._parameterNode is None or self._updating:
            return
        self._updating = True
        try:
            self.choices.show()
            self.bank.show()
            if not self.logic.busy():
                self._showReferences()
                self.match.show()
                self.readiness.show()
            self.result.show()
            self.keep.show()
            self.corrections.show()
        finally:
            self._updating = False

    def _showReferences(self):
        chosen = self._chosen()
        if chosen or not self.references.unfinished():
            self.references.show(chosen)
        choice = self.bank.choice()
        everything = structures_of(chosen, choice.offered if choice else ())
        self.structures.show(everything, self._parameterNode.excludedStructures, self._parameterNode.prompt)
        wanted = self.structures.wanted()
        self.ui.structureCountLabel.text = (
            _("{k} of {n} checked").format(k=len(wanted), n=len(everything)) if everything else ""
        )
        self.watch.follow(chosen)

    def _chosen(self):
        pairs = zip(self._parameterNode.referenceVolumes, self._parameterNode.referenceSegmentations)
        return [ReferenceNodes(volume, seg) for volume, seg in pairs if volume is not None and seg is not None]

    # -- the run
    def onSegmentButton(self):
        if self.logic.busy():
            self.logic.cancel()
            return
        try:
            self._start()
        except Problem as problem:
            self.message.show(wording.problem_notice(problem))

    def _start(self, corrections=None):
        """Raises Problem. corrections: the slices of the result that are right."""
        node, wanted = self._parameterNode, [one.name for one in self.structures.wanted()]
        self.message.show(None)
        self.logic.keep_loaded = node.keepLoaded
        self.logic.segment(
            self._chosen(),
            node.targetVolume,
            node.outputSegmentation,
            settings.choices_of(node, wanted, len(self.structures.structures)),
            self.ui.pythonEdit.currentPath,
            lambda state: self._showRun(state, corrections is not None),
            self._onOutputMade,
            self.bank.choice(),
            corrections,
            node.keepClear,
        )

    def _onOutputMade(self, segmentation):
        if self._parameterNode is not None:
            self._parameterNode.outputSegmentation = segmentation

    def _showRun(self, state, corrected=False):
        if self._parameterNode is not None:
            self.view.show(state)
            if state.over:
                self._showOutcome(state, corrected)

    def _showOutcome(self, state, corrected):
        if state.phase == "done":
            self.result.keep(state, self.logic.run_id, corrected)
        self._update()
        self.message.show(wording.outcome(state))

    def onReleaseButton(self):
        if not self.logic.busy():
            self.logic.client.stop()


class RAUSlicerLogic(ScriptedLoadableModuleLogic, Session):
    """One worker process and one run at a time, see `RAUSlicerLib.session`. For scripts: `process` waits."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleLogic.__init__(self, parent)
        Session.__init__(self)

    def getParameterNode(self):
        return RAUSlicerParameterNode(super().getParameterNode())


class RAUSlicerTest(ScriptedLoadableModuleTest):
    """The sample patients; one phantom segmented from another with the bundled model, where a Python has the engine."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        self.test_SampleData()
        self.setUp()
        self.test_SegmentFromReference()

    def test_SampleData(self):
        """By the worker's Python, else by Slicer's own."""
        reference, segmentation, target = sample_nodes()
        self.assertEqual(reference.GetImageData().GetDimensions(), target.GetImageData().GetDimensions())
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 8)

    def test_SegmentFromReference(self):
        try:
            RAUSlicerLogic.launch()
        except Problem as problem:
            self.skipTest(str(problem))
        from RAUSlicerLib.phantom import phantom

        reference, target = phantom("Reference", seed=1), phantom("Target", seed=2, annotated=False)
        logic = RAUSlicerLogic()
        try:
            result = logic.process([ReferenceNodes(*reference)], target[0])
        finally:
            logic.close()
        names = [
            result.GetSegmentation().GetNthSegment(i).GetName()
            for i in range(result.GetSegmentation().GetNumberOfSegments())
        ]
        self.assertTrue(set(names) <= {"liver", "spleen", "kidney"} and names)
        self.delayDisplay(_("Test passed"))
