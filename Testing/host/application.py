"""What the Slicer application sets up before a module is opened: scene, logics, `slicer.app`, `slicer.modules`."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any

import slicer
import vtk

# Colors must be there, or every volume load logs an error.
MODULE_LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Tables": "vtkSlicerTablesLogic",
}


class LoadedModule(SimpleNamespace):
    """What `slicer.modules.<name>` offers: logic(), path, name."""

    def logic(self) -> Any:
        return self._logic


class Signals:
    """The signals of `slicer.app` that module code connects to; a test emits them."""

    NAMES = ("aboutToQuit()", "startupCompleted()")

    def __init__(self) -> None:
        self._slots: dict[str, list[Any]] = {name: [] for name in self.NAMES}

    def connect(self, signature: str, slot: Any) -> bool:
        if signature not in self._slots:
            raise ValueError(f"slicer.app has no signal {signature}")
        self._slots[signature].append(slot)
        return True

    def disconnect(self, signature: str, slot: Any) -> bool:
        self._slots[signature].remove(slot)
        return True

    def emit(self, signature: str) -> None:
        for slot in list(self._slots[signature]):
            slot()


def boot(terminology_folder: str = "") -> tuple[Any, Any]:
    """(scene, application logic); published as slicer.mrmlScene, slicer.app and slicer.modules. Once a process."""
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    for factory in (
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
    ):
        factory.GetInstance().SetMRMLApplicationLogic(logic)
    scratch = tempfile.mkdtemp(prefix="rau_host_")
    _load_logics(scene, logic, terminology_folder, scratch)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)  # before the first slice node exists
    keep = _wire_io(scene, logic, scratch)
    _follow_subject_hierarchy(scene)
    slicer.app = _application(scene, logic, scratch, keep)
    return scene, logic


def _load_logics(scene: Any, application: Any, terminology_folder: str, scratch: str) -> None:
    slicer.modules = SimpleNamespace()
    for name, class_name in MODULE_LOGICS.items():
        logic = getattr(slicer, class_name)()
        quiet = name == "Terminologies" and not terminology_folder  # slicer-core ships no terminology files
        if name == "Terminologies":
            logic.SetModuleShareDirectory(terminology_folder or scratch)
        vtk.vtkObject.SetGlobalWarningDisplay(0 if quiet else 1)
        logic.SetMRMLScene(scene)
        vtk.vtkObject.SetGlobalWarningDisplay(1)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), LoadedModule(_logic=logic, name=name, path=""))


def _wire_io(scene: Any, application: Any, scratch: str) -> tuple[Any, ...]:
    """Reading .mrb files goes through the data IO manager."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.SetMRMLApplicationLogic(application)
    remote.GetCacheManager().SetRemoteCacheDirectory(scratch)
    data = slicer.vtkDataIOManagerLogic()
    data.SetMRMLScene(scene)
    data.SetMRMLApplicationLogic(application)
    data.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    return remote, data


def _follow_subject_hierarchy(scene: Any) -> None:
    """In Slicer a Qt plugin keeps subject hierarchy items in step with nodes; here two observers do it."""

    def tree() -> Any:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_added(caller: Any, event: str, node: Any) -> None:
        wanted = node.IsA("vtkMRMLDisplayableNode") and not node.GetHideFromEditors() and not scene.IsBatchProcessing()
        if wanted and not tree().GetItemByDataNode(node):
            tree().CreateItem(tree().GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_removed(caller: Any, event: str, node: Any) -> None:
        if scene.IsBatchProcessing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        if tree().GetItemByDataNode(node):
            tree().RemoveItem(tree().GetItemByDataNode(node), False, False)

    scene.AddObserver(scene.NodeAddedEvent, on_added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, on_removed)


def _application(scene: Any, logic: Any, scratch: str, keep: tuple[Any, ...]) -> SimpleNamespace:
    signals = Signals()
    settings: dict[str, Any] = {}
    user_settings = SimpleNamespace(value=settings.get, setValue=settings.__setitem__)
    return SimpleNamespace(
        mrmlScene=lambda: scene,
        applicationLogic=lambda: logic,
        processEvents=lambda *arguments: None,
        setOverrideCursor=lambda *arguments: None,
        restoreOverrideCursor=lambda *arguments: None,
        pauseRender=lambda: None,
        resumeRender=lambda: None,
        testingEnabled=lambda: True,
        topLevelWidgets=lambda: [],  # there is no main window
        temporaryPath=scratch,
        userSettings=lambda: user_settings,
        connect=signals.connect,
        disconnect=signals.disconnect,
        emit=signals.emit,
        _keep_alive=keep,
    )
